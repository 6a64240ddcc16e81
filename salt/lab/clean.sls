{#- The reverse of lab, from what was made on this host: works with a faulty pillar, or none. -#}
{%- set lab = salt["qemulab.declaration"](pillar.get("lab"), True) %}
{%- set purge = purge | default(false) %}
{%- for name in lab.made.vms %}
{{ ("lab-vm:" ~ name ~ "-absent") | json }}:
  qemulab.vm_absent:
    - name: {{ name | json }}
    - lab: {{ lab.name | json }}
    - purge: {{ purge | json }}
    - require_in:
      - qemulab: lab-absent
{% endfor %}
{%- for name in lab.made.networks %}
{{ ("lab-network:" ~ name ~ "-absent") | json }}:
  qemulab.network_absent:
    - name: {{ name | json }}
    - lab: {{ lab.name | json }}
    - require_in:
      - qemulab: lab-absent
{%- for vm in lab.made.vms %}
    {%- if loop.first %}
    - require:
    {%- endif %}
      - qemulab: {{ ("lab-vm:" ~ vm ~ "-absent") | json }}
{%- endfor %}
{% endfor %}
{%- if lab.name %}
lab-absent:
  qemulab.absent:
    - lab: {{ lab.name | json }}
    - purge: {{ purge | json }}
{%- else %}
lab-declared:
  qemulab.declared: []
{%- endif %}
