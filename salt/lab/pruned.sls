{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.present
{%- if lab.networks or lab.vms %}

lab-pruned:
  qemulab.pruned:
    - vms: {{ lab.vms.keys() | list | json }}
    - networks: {{ lab.networks.keys() | list | json }}
    - mode: {{ lab.prune }}
    - lab: {{ lab.name }}
    - order: last
    - require:
      - qemulab: lab-declared
{%- endif %}
