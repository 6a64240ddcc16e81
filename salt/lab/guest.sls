{%- from "lab/map.jinja" import lab with context %}
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
