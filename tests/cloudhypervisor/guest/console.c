#include "console.h"

#include <stdarg.h>

/* The serial port and its line status. */
#define SERIAL      0x3f8
#define SERIAL_LINE (SERIAL + 5)
#define LINE_EMPTY  0x20 /* takes a byte */

struct text {
	char *to;
	size_t length;
};

static void add(struct text *t, char c)
{
	if (t->length < TEXT_MAX - 1)
		t->to[t->length++] = c;
}

static void add_number(struct text *t, unsigned long n)
{
	if (n >= 10)
		add_number(t, n / 10);
	add(t, (char)('0' + n % 10));
}

static size_t format_args(char *to, const char *format, va_list args)
{
	struct text t = { to, 0 };

	for (const char *p = format; *p; p++) {
		if (*p != '%') {
			add(&t, *p);
		} else if (*++p == 's') {
			for (const char *s = va_arg(args, const char *); *s; s++)
				add(&t, *s);
		} else {
			p++; /* of "lu" */
			add_number(&t, va_arg(args, unsigned long));
		}
	}
	to[t.length] = 0;
	return t.length;
}

size_t format(char *to, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	size_t length = format_args(to, format, args);
	va_end(args);
	return length;
}

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
