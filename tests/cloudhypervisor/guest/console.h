/*
 * The serial console.
 */
#ifndef CONSOLE_H
#define CONSOLE_H

/* print writes a text as format makes it. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* die says why and stops. */
_Noreturn void die(const char *why);

#endif
