{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.present
  - lab.packages
  - lab.guest
  - lab.network

{%- for name, vm in lab.vms.items() %}

{{ ("lab-vm:" ~ name) | json }}:
  qemulab.vm_running:
    - name: {{ name | json }}
    - lab: {{ lab.name | json }}
{%- for key, value in vm.items() %}
    - {{ key }}: {{ value | json }}
{%- endfor %}
    - require:
      - sls: lab.present
{%- if lab.networks %}
      - sls: lab.network
{%- endif %}
{%- if name in lab.guest %}
      - sls: lab.guest
{%- endif %}
{%- endfor %}
