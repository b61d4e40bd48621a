/*
 * A driver of virtio-vsock (virtio v1.4 §5.10), stream sockets only, and its
 * connections with the host.
 */
#ifndef VSOCK_H
#define VSOCK_H

#include "machine.h"

/* WINDOW is how many bytes a connection takes before they are read: its buf_alloc. */
#define WINDOW 0x10000

/* PAYLOAD_MAX is the most that one packet of ours brings. */
#define PAYLOAD_MAX (4096 - 44)

/* Flags of VIRTIO_VSOCK_OP_SHUTDOWN. */
#define SHUTDOWN_RCV  1
#define SHUTDOWN_SEND 2
#define SHUTDOWN_BOTH 3

struct conn;

/* A service is called again and again while its connection lasts. */
typedef void service(struct conn *c);

struct conn {
	enum { FREE, DIALLED, OPEN } state;
	uint32_t port, host_port;
	service *serve;

	/* What we send, and what the host's end told of it. */
	uint32_t tx_cnt, host_buf_alloc, host_fwd_cnt;
	uint8_t shutdown; /* flags due to the host, and those sent */
	uint8_t shutdown_sent;

	/* What the host sends; the bytes between the counters wait in window. */
	uint32_t rx_cnt, fwd_cnt, fwd_cnt_sent;
	uint8_t host_shutdown;

	/* What the services keep of a connection. */
	uint64_t count, goal;
	char line[32];

	uint8_t window[WINDOW];
};

/* vsock_start makes the device run and says so. service_at tells who serves a port, or
 * NULL; features are virtio's to take if they are offered. */
void vsock_start(service *service_at(uint32_t port), uint64_t features);

/* vsock_restart resets the device, which ends all connections, and makes it run again. */
void vsock_restart(void);

/* vsock_poll does what there is to do now. */
void vsock_poll(void);

/* vsock_dial connects to a port of the host. */
void vsock_dial(uint32_t host_port, service *serve);

/* vsock_read takes up to n bytes that the host sent and returns how many. */
uint32_t vsock_read(struct conn *c, uint8_t *to, uint32_t n);

/* vsock_ended returns whether all was read and the host sends no more. */
bool vsock_ended(const struct conn *c);

/* vsock_room returns how many bytes vsock_write takes now, PAYLOAD_MAX at most. */
uint32_t vsock_room(const struct conn *c);
void vsock_write(struct conn *c, const void *from, uint32_t n);

/* vsock_shutdown ends one or both ways. */
void vsock_shutdown(struct conn *c, uint8_t flags);

#endif
