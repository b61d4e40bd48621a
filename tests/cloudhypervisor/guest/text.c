#include "text.h"

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

size_t format_args(char *to, const char *format, va_list args)
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

uint64_t number(const char *text)
{
	uint64_t n = 0;

	while (*text >= '0' && *text <= '9')
		n = n * 10 + (uint64_t)(*text++ - '0');
	return n;
}

const char *after(const char *text, const char *word)
{
	while (*word)
		if (*text++ != *word++)
			return NULL;
	return text;
}
