/*
 * PCI configuration space of bus 0, by the ports every PC has.
 */
#ifndef PCI_H
#define PCI_H

#include "machine.h"

/* pci_find returns the first slot whose function 0 is vendor's device, or -1. */
int pci_find(uint16_t vendor, uint16_t device);

uint32_t pci_read32(int slot, uint8_t offset);
uint8_t pci_read8(int slot, uint8_t offset);

/* pci_enable has the device answer to its memory and access ours. */
void pci_enable(int slot);

/* pci_bar returns the physical address of a memory BAR. */
uint64_t pci_bar(int slot, unsigned bar);

/* pci_capability returns the offset of the next capability with id behind offset
 * after (0: the first), or 0. */
uint8_t pci_capability(int slot, uint8_t id, uint8_t after);

#endif
