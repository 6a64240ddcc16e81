lab-declared:
  qemulab.declared:
    - order: 1
