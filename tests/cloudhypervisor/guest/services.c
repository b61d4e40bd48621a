#include "services.h"

#include "console.h"
#include "pattern.h"
#include "text.h"

/* The ports; those of echo, discard and chargen are the ones RFC 862 to 864 give them. */
enum { CONTROL = 1, ECHO = 7, DISCARD = 9, SOURCE = 19 };

/* check takes what came, which must be the pattern. */
static void check(struct conn *c)
{
	uint8_t bytes[PAYLOAD_MAX];
	uint32_t n = vsock_read(c, bytes, sizeof(bytes));

	if (!same(bytes, pattern_at(c->count), n))
		die("payload is not the pattern");
	c->count += n;
}

/* echo sends back what it gets as long as the host takes it, and then ends. */
static void echo(struct conn *c)
{
	uint8_t bytes[PAYLOAD_MAX];
	bool taken = !(c->host_shutdown & SHUTDOWN_RCV);
	uint32_t n = vsock_read(c, bytes, taken ? vsock_room(c) : sizeof(bytes));

	if (taken)
		vsock_write(c, bytes, n);
	if (vsock_ended(c))
		vsock_shutdown(c, SHUTDOWN_BOTH);
}

/* discard answers how many bytes came, once the host ended. */
static void discard(struct conn *c)
{
	char answer[TEXT_MAX];

	check(c);
	if (!vsock_ended(c) || vsock_room(c) < TEXT_MAX)
		return;
	vsock_write(c, answer, (uint32_t)format(answer, "%lu\n", c->count));
	vsock_shutdown(c, SHUTDOWN_BOTH);
}

/* read_line returns whether a whole line has come; it is in c->line then. */
static bool read_line(struct conn *c)
{
	size_t length = 0;
	uint8_t byte;

	while (c->line[length])
		length++;
	while (vsock_read(c, &byte, 1) == 1) {
		if (byte == '\n')
			return true;
		if (length == sizeof(c->line) - 1)
			die("a line that is too long");
		c->line[length++] = (char)byte;
		c->line[length] = 0;
	}
	return false;
}

/* swallow takes what the host sends after the source's end, and tells the console. */
static void swallow(struct conn *c)
{
	check(c);
	if (!vsock_ended(c))
		return;
	print("guest: source swallowed %lu bytes\n", c->count);
	vsock_shutdown(c, SHUTDOWN_BOTH);
	c->serve = check;
}

/* send_pattern sends as many bytes as were asked for, and ends its way alone. */
static void send_pattern(struct conn *c)
{
	uint64_t left = c->goal - c->count;
	uint32_t n = vsock_room(c);

	if (n > left)
		n = (uint32_t)left;
	vsock_write(c, pattern_at(c->count), n);
	c->count += n;
	if (c->count < c->goal)
		return;
	vsock_shutdown(c, SHUTDOWN_SEND);
	c->count = 0;
	c->serve = swallow;
}

/* source takes a line with the number of bytes to send. */
static void source(struct conn *c)
{
	if (!read_line(c))
		return;
	c->goal = number(c->line);
	c->serve = send_pattern;
}

/* control takes a command a line. */
static void control(struct conn *c)
{
	const char *port;

	if (vsock_ended(c))
		vsock_shutdown(c, SHUTDOWN_BOTH);
	if (!read_line(c))
		return;
	if ((port = after(c->line, "dial ")))
		vsock_dial((uint32_t)number(port), echo);
	else if (after(c->line, "restart"))
		vsock_restart();
	else if (after(c->line, "reboot"))
		reboot();
	else if (after(c->line, "poweroff"))
		power_off();
	else
		die("an unknown command");
	c->line[0] = 0;
}

service *service_at(uint32_t port)
{
	switch (port) {
	case CONTROL:
		return control;
	case ECHO:
		return echo;
	case DISCARD:
		return discard;
	case SOURCE:
		return source;
	}
	return NULL;
}
