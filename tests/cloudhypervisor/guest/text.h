/*
 * Text, made and taken apart.
 */
#ifndef TEXT_H
#define TEXT_H

#include "machine.h"

#include <stdarg.h>

/* TEXT_MAX is the longest text that format writes, with the NUL at its end. */
#define TEXT_MAX 128

/* format writes a text into to, of TEXT_MAX bytes, and returns its length. It knows %s
 * and %lu. */
size_t format(char *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
size_t format_args(char *to, const char *format, va_list args);

/* number returns the number at the start of a text. */
uint64_t number(const char *text);

/* after returns what follows a word at the start of a text, or NULL. */
const char *after(const char *text, const char *word);

#endif
