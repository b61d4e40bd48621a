#include "machine.h"

#include "console.h"

#define HUGE_PAGE 0x200000ull

/* Flags of a page that maps device memory: present, writable, uncached, 2 MiB. */
#define DEVICE_PAGE 0x9bull

/* DEVICE_WINDOW is where the pages of device_pd appear. */
#define DEVICE_WINDOW (1ull << 39)

extern uint64_t device_pd[512];

volatile void *map_device(uint64_t physical, uint32_t length)
{
	static unsigned used;
	uint64_t offset = physical % HUGE_PAGE;
	uint64_t pages = (offset + length + HUGE_PAGE - 1) / HUGE_PAGE;
	uint64_t address = DEVICE_WINDOW + used * HUGE_PAGE + offset;

	for (uint64_t page = physical - offset; pages > 0; pages--, page += HUGE_PAGE) {
		if (used == 512)
			die("too much device memory");
		device_pd[used++] = page | DEVICE_PAGE;
	}
	return (volatile void *)address;
}

_Noreturn void reboot(void)
{
	for (;;)
		out8(0x64, 0xfe); /* the keyboard controller's reset */
}

_Noreturn void power_off(void)
{
	for (;;)
		out8(0x600, 0x34); /* ACPI's sleep control register: S5, now */
}

/* What the compiler calls by itself. */

void *memcpy(void *to, const void *from, size_t n)
{
	void *start = to;
	size_t words = n / 8, rest = n % 8;

	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
	return start;
}

void *memset(void *to, int byte, size_t n)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
	return start;
}
