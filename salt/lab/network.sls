{%- set lab = salt["qemulab.declaration"](pillar.get("lab")) %}
include:
  - lab.declared
  - lab.present
  - lab.packages

{%- for name, network in lab.networks.items() %}

{{ ("lab-network:" ~ name) | json }}:
  qemulab.network_present:
    - name: {{ name | json }}
    - lab: {{ lab.name | json }}
{%- for key, value in network.items() %}
    - {{ key }}: {{ value | json }}
{%- endfor %}
    - require:
      - sls: lab.present

{#- Behind their network at once, so that what it restarts asks for its new address. #}
{%- for item in lab.stale_reservations if item.network == name %}

{{ ("lab-reservation:" ~ item.network ~ ":" ~ item.name) | json }}:
  qemulab.reservation_absent:
    - name: {{ item.name | json }}
    - network: {{ item.network | json }}
    - lab: {{ lab.name | json }}
    - require:
      - qemulab: {{ ("lab-network:" ~ item.network) | json }}
{%- endfor %}

{%- for item in lab.reservations if item.network == name %}

{{ ("lab-reservation:" ~ item.network ~ ":" ~ item.name) | json }}:
  qemulab.reservation_present:
    - name: {{ item.name | json }}
    - network: {{ item.network | json }}
    - mac: {{ item.mac | json }}
    - address: {{ item.address | json }}
    - lab: {{ lab.name | json }}
    - require:
      - qemulab: {{ ("lab-network:" ~ item.network) | json }}
{%- endfor %}
{%- endfor %}
