{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.present
  - lab.packages
  - lab.guest
  - lab.network

{%- for name, vm in lab.vms.items() %}

lab-vm-{{ name }}:
  qemulab.vm_running:
    - name: {{ name }}
    - lab: {{ lab.name }}
{%- for key, value in vm.items() %}
    - {{ key }}: {{ value | json }}
{%- endfor %}
    - require:
      - qemulab: lab-present
{%- if lab.networks %}
      - sls: lab.network
{%- endif %}
{%- if vm.boot | default("guest") == "guest" and lab.guest %}
      - qemulab: lab-guest
{%- endif %}
{%- endfor %}
