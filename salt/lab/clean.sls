{#- The reverse of lab, from what was made on this host: works with a faulty pillar, or none. -#}
{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
{%- set purge = purge | default(false) %}
{%- for name in lab.made.vms %}
lab-vm-{{ name }}-absent:
  qemulab.vm_absent:
    - name: {{ name }}
    - lab: {{ lab.name }}
    - purge: {{ purge }}
    - require_in:
      - qemulab: lab-absent
{% endfor %}
{%- for name in lab.made.networks %}
lab-network-{{ name }}-absent:
  qemulab.network_absent:
    - name: {{ name }}
    - lab: {{ lab.name }}
    - require_in:
      - qemulab: lab-absent
{%- for vm in lab.made.vms %}
    {%- if loop.first %}
    - require:
    {%- endif %}
      - qemulab: lab-vm-{{ vm }}-absent
{%- endfor %}
{% endfor %}
{%- if lab.name %}
lab-absent:
  qemulab.absent:
    - lab: {{ lab.name }}
    - purge: {{ purge }}
{%- else %}
lab-declared:
  qemulab.declared:
    - pillar: {{ pillar.get("lab") | json }}
{%- endif %}
