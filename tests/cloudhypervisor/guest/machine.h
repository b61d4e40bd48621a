/*
 * The machine: its ports and pages and its two switches.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* barrier orders all accesses before it with all behind it. A locked instruction,
 * because KVM's emulator knows no MFENCE. */
static inline void barrier(void)
{
	__asm__ volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
}

/* order_accesses keeps the compiler from moving accesses; the processor moves no loads
 * over loads and no stores over stores. */
static inline void order_accesses(void)
{
	__asm__ volatile("" : : : "memory");
}

static inline void relax(void)
{
	__asm__ volatile("pause");
}

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);

/* map_device returns where the device memory at a physical address can be accessed. */
volatile void *map_device(uint64_t physical, uint32_t length);

/* reboot resets the machine. */
_Noreturn void reboot(void);

/* power_off turns a machine of cloud-hypervisor off. */
_Noreturn void power_off(void);

#endif
