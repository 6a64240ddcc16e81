{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.present
  - lab.packages

{%- for name, network in lab.networks.items() %}

lab-network-{{ name }}:
  qemulab.network_present:
    - name: {{ name }}
    - lab: {{ lab.name }}
{%- for key, value in network.items() %}
    - {{ key }}: {{ value | json }}
{%- endfor %}
    - require:
      - qemulab: lab-present
{%- endfor %}

{%- for item in lab.stale_reservations %}

lab-reservation-{{ item.network }}-{{ item.name }}:
  qemulab.reservation_absent:
    - name: {{ item.name }}
    - network: {{ item.network }}
    - lab: {{ lab.name }}
    - require:
      - qemulab: lab-network-{{ item.network }}
{%- endfor %}

{%- for item in lab.reservations %}

lab-reservation-{{ item.network }}-{{ item.name }}:
  qemulab.reservation_present:
    - name: {{ item.name }}
    - network: {{ item.network }}
    - mac: {{ item.mac | json }}
    - address: {{ item.address }}
    - lab: {{ lab.name }}
    - require:
      - qemulab: lab-network-{{ item.network }}
{%- endfor %}
