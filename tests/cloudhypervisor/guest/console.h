/*
 * Text: the serial console, and what the services answer.
 */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "machine.h"

/* TEXT_MAX is the longest text of one call of format or print, with its end. */
#define TEXT_MAX 128

/* format writes a text into to, of TEXT_MAX bytes, and returns its length without the
 * NUL at its end. It knows %s and %lu. */
size_t format(char *to, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* print formats a text and writes it to the serial console. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* die says why and stops. */
_Noreturn void die(const char *why);

#endif
