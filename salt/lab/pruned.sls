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
    {#- What is to go goes first: what is to come may be given its port, its name, its memory. #}
    - order: {{ 2 if lab.prune == "stop" else "last" }}
    - require:
      - sls: lab.declared
{%- endif %}
