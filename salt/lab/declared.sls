{%- from "lab/map.jinja" import declared with context %}
lab-declared:
  qemulab.declared:
    - pillar: {{ declared | json }}
    - order: 1
