{#- Rendered only where something is missing: looking through PATH costs less than a package state. -#}
{%- set missing = salt["qemulab.missing_packages"](pillar.get("lab")) %}
include:
  - lab.declared
{%- if missing %}

lab-packages:
  pkg.installed:
    - pkgs: {{ missing | json }}
    - install_recommends: False
    - refresh: True
    - require:
      - qemulab: lab-declared
{%- endif %}
