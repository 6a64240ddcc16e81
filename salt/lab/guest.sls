{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.packages
{%- if lab.guest %}

lab-guest:
  qemulab.guest_present:
    - lab: {{ lab.name | json }}
    - require:
      - sls: lab.declared
{%- if lab.missing_packages %}
      - sls: lab.packages
{%- endif %}
{%- endif %}
