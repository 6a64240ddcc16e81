{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.present
{%- if lab.acts %}

lab-pruned:
  qemulab.pruned:
    - vms: {{ lab.vms.keys() | list | json }}
    - networks: {{ lab.networks.keys() | list | json }}
    - mode: {{ lab.prune | json }}
    - lab: {{ lab.name | json }}
    - order: last
    - require:
      - sls: lab.declared
{%- endif %}
