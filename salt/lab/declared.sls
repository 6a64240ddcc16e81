{#- What this host has against the lab stops it here: no other state is rendered then. -#}
{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
lab-declared:
  qemulab.declared:
    - order: 1
{%- if lab.faults %}
    - faults: {{ lab.faults | json }}
{%- endif %}
