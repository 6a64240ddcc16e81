{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.packages
{%- if lab.guest %}

lab-guest:
  qemulab.guest_present:
    - lab: {{ lab.name }}
    - require:
      - sls: lab.packages
      - qemulab: lab-declared
{%- endif %}
