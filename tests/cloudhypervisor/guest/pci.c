#include "pci.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc

#define COMMAND        0x04
#define COMMAND_MEMORY 0x2
#define COMMAND_MASTER 0x4
#define BAR            0x10
#define CAPABILITIES   0x34

#define BAR_64 0x4

static void select(int slot, uint8_t offset)
{
	out32(CONFIG_ADDRESS, 1u << 31 | (uint32_t)slot << 11 | (offset & 0xfc));
}

uint32_t pci_read32(int slot, uint8_t offset)
{
	select(slot, offset);
	return in32(CONFIG_DATA);
}

uint8_t pci_read8(int slot, uint8_t offset)
{
	return (uint8_t)(pci_read32(slot, offset) >> offset % 4 * 8);
}

int pci_find(uint16_t vendor, uint16_t device)
{
	for (int slot = 0; slot < 32; slot++)
		if (pci_read32(slot, 0) == ((uint32_t)device << 16 | vendor))
			return slot;
	return -1;
}

void pci_enable(int slot)
{
	uint32_t command = pci_read32(slot, COMMAND) & 0xffff;

	select(slot, COMMAND);
	out32(CONFIG_DATA, command | COMMAND_MEMORY | COMMAND_MASTER);
}

uint64_t pci_bar(int slot, unsigned bar)
{
	uint8_t offset = (uint8_t)(BAR + bar * 4);
	uint32_t low = pci_read32(slot, offset);
	uint64_t high = low & BAR_64 ? pci_read32(slot, offset + 4) : 0;

	return high << 32 | (low & ~0xfu);
}

uint8_t pci_capability(int slot, uint8_t id, uint8_t after)
{
	uint8_t next = after ? after + 1 : CAPABILITIES;

	while ((next = pci_read8(slot, next)) != 0) {
		if (pci_read8(slot, next) == id)
			return next;
		next++;
	}
	return 0;
}
