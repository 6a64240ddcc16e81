{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.present
{%- if lab.acts %}
{%- set left = lab.made.networks | difference(lab.networks | list) %}

lab-pruned:
  qemulab.pruned:
    - vms: {{ lab.vms.keys() | list | json }}
    - networks: {{ lab.networks.keys() | list | json }}
    - mode: {{ lab.prune | json }}
    - lab: {{ lab.name | json }}
    {#- What is to go goes first: what is to come may be given its port. Only a network goes last:
        machines may sit on it until their own states have moved them. #}
    - order: {{ 2 if lab.prune == "stop" and not left else "last" }}
    - require:
      - sls: lab.declared
{%- endif %}
