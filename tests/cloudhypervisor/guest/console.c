#include "console.h"

#include "text.h"

/* The serial port and its line status. */
#define SERIAL      0x3f8
#define SERIAL_LINE (SERIAL + 5)
#define LINE_EMPTY  0x20 /* takes a byte */

void print(const char *format, ...)
{
	char text[TEXT_MAX];
	va_list args;

	va_start(args, format);
	format_args(text, format, args);
	va_end(args);
	for (const char *p = text; *p; p++) {
		while (!(in8(SERIAL_LINE) & LINE_EMPTY))
			relax();
		out8(SERIAL, (uint8_t)*p);
	}
}

_Noreturn void die(const char *why)
{
	print("guest: dead: %s\n", why);
	for (;;)
		__asm__ volatile("hlt");
}
