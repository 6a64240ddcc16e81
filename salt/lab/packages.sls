{#- Rendered only where something is missing: looking through PATH costs less than a package state. -#}
{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
{%- if lab.missing_packages %}

lab-packages:
  pkg.installed:
    - pkgs: {{ lab.missing_packages | json }}
    - install_recommends: False
    - refresh: True
    - require:
      - sls: lab.declared
{%- endif %}
