lab-declared:
  qemulab.declared:
    - pillar: {{ pillar.get("lab") | json }}
    - order: 1
