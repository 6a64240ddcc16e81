{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.packages
{%- if lab.networks or lab.vms %}

lab-present:
  qemulab.present:
    - authorized_keys: {{ lab.authorized_keys | json }}
    - lab: {{ lab.name | json }}
    - require:
      - sls: lab.declared
{%- if lab.missing_packages %}
      - sls: lab.packages
{%- endif %}
{%- endif %}
