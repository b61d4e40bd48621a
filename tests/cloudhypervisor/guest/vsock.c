#include "vsock.h"

#include "console.h"
#include "virtio.h"

#define DEVICE_ID 19 /* virtio v1.4 §5.10.1 */
#define HOST_CID  2

#define TYPE_STREAM 1

enum op { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

/* virtio v1.4 §5.10.6.7 */
#define TRANSPORT_RESET 0

/* struct virtio_vsock_hdr */
struct header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));

struct packet {
	struct header header;
	uint8_t payload[PAYLOAD_MAX];
};

#define CONNECTIONS 32
#define FIRST_DIAL_PORT 1024

static struct queue rx, tx, events;
static _Alignas(PAGE) struct packet rx_packets[QUEUE_MAX];
static _Alignas(PAGE) uint32_t event_buffers[QUEUE_MAX];
static _Alignas(PAGE) struct packet tx_packets[QUEUE_MAX];

/* The packets of tx that the device does not have. */
static uint16_t tx_free[QUEUE_MAX], tx_free_count;

static uint64_t cid;
static struct conn connections[CONNECTIONS];
static service *(*service_at)(uint32_t port);
static uint64_t wanted_features;

/* post hands a packet to the device; one must be free. */
static void post(const struct header *h, const void *payload)
{
	uint16_t n = tx_free[--tx_free_count];
	struct packet *p = &tx_packets[n];

	p->header = *h;
	memcpy(p->payload, payload, h->len);
	queue_post(&tx, n, p, sizeof(p->header) + h->len, false);
}

/* send sends a packet of a connection; it tells our credit, whatever it is. */
static void send(struct conn *c, enum op op, uint32_t flags, const void *payload, uint32_t len)
{
	const struct header h = {
		.src_cid = cid,
		.dst_cid = HOST_CID,
		.src_port = c->port,
		.dst_port = c->host_port,
		.len = len,
		.type = TYPE_STREAM,
		.op = (uint16_t)op,
		.flags = flags,
		.buf_alloc = WINDOW,
		.fwd_cnt = c->fwd_cnt,
	};

	c->fwd_cnt_sent = c->fwd_cnt;
	post(&h, payload);
}

/* refuse answers a packet that belongs to no connection. */
static void refuse(const struct header *h)
{
	const struct header rst = {
		.src_cid = h->dst_cid,
		.dst_cid = h->src_cid,
		.src_port = h->dst_port,
		.dst_port = h->src_port,
		.type = h->type,
		.op = RST,
	};

	if (h->op != RST)
		post(&rst, NULL);
}

static struct conn *find(uint32_t port, uint32_t host_port)
{
	for (struct conn *c = connections; c < connections + CONNECTIONS; c++)
		if (c->state != FREE && c->port == port && c->host_port == host_port)
			return c;
	return NULL;
}

/* open returns a new connection, or NULL if there are too many. */
static struct conn *open(uint32_t port, uint32_t host_port, service *serve)
{
	for (struct conn *c = connections; c < connections + CONNECTIONS; c++) {
		if (c->state != FREE)
			continue;
		memset(c, 0, offsetof(struct conn, window));
		c->port = port;
		c->host_port = host_port;
		c->serve = serve;
		return c;
	}
	return NULL;
}

void vsock_dial(uint32_t host_port, service *serve)
{
	static uint32_t port = FIRST_DIAL_PORT;
	struct conn *c = tx_free_count > 0 ? open(port++, host_port, serve) : NULL;

	if (!c)
		die("too much at once to dial");
	c->state = DIALLED;
	send(c, REQUEST, 0, NULL, 0);
}

static void accept(const struct header *h)
{
	service *serve = service_at(h->dst_port);
	struct conn *c = serve ? open(h->dst_port, h->src_port, serve) : NULL;

	if (!c) {
		refuse(h);
		return;
	}
	c->state = OPEN;
	c->host_buf_alloc = h->buf_alloc;
	c->host_fwd_cnt = h->fwd_cnt;
	send(c, RESPONSE, 0, NULL, 0);
}

/* take stores payload in the window, which must have room for it. */
static void take(struct conn *c, const uint8_t *payload, uint32_t len)
{
	if (len > WINDOW - (c->rx_cnt - c->fwd_cnt))
		die("more payload than there was credit for");
	while (len > 0) {
		uint32_t at = c->rx_cnt % WINDOW;
		uint32_t n = len < WINDOW - at ? len : WINDOW - at;
		memcpy(c->window + at, payload, n);
		c->rx_cnt += n;
		payload += n;
		len -= n;
	}
}

static void reset_by_host(struct conn *c)
{
	if (c->state == DIALLED)
		print("guest: port %lu refused\n", (unsigned long)c->host_port);
	else if (c->shutdown_sent != SHUTDOWN_BOTH)
		print("guest: connection from %lu to %lu reset\n",
		      (unsigned long)c->host_port, (unsigned long)c->port);
	c->state = FREE;
}

/* receive handles a packet. It answers with one packet at most. */
static void receive(const struct packet *p, uint32_t length)
{
	const struct header *h = &p->header;

	if (length < sizeof(*h) || h->len != length - sizeof(*h))
		die("a packet of a wrong length");
	if (h->src_cid != HOST_CID || h->type != TYPE_STREAM)
		die("a packet from nowhere");
	if (h->dst_cid != cid) { /* the event that gives us this address is on its way */
		refuse(h);
		return;
	}

	struct conn *c = find(h->dst_port, h->src_port);
	if (!c) {
		if (h->op == REQUEST)
			accept(h);
		else
			refuse(h);
		return;
	}
	c->host_buf_alloc = h->buf_alloc;
	c->host_fwd_cnt = h->fwd_cnt;
	switch (h->op) {
	case RESPONSE:
		if (c->state != DIALLED)
			die("a response to no request");
		c->state = OPEN;
		break;
	case RST:
		reset_by_host(c);
		break;
	case SHUTDOWN:
		c->host_shutdown |= h->flags & SHUTDOWN_BOTH;
		break;
	case RW:
		if (c->state != OPEN || c->host_shutdown & SHUTDOWN_SEND)
			die("payload out of place");
		take(c, p->payload, h->len);
		break;
	case CREDIT_UPDATE:
		break;
	case CREDIT_REQUEST:
		send(c, CREDIT_UPDATE, 0, NULL, 0);
		break;
	default:
		die("an operation out of place");
	}
}

/* tend tells the host what a connection owes it. */
static void tend(struct conn *c)
{
	if (tx_free_count == 0 || c->state != OPEN)
		return;
	if (c->host_shutdown == SHUTDOWN_BOTH && c->rx_cnt == c->fwd_cnt) {
		send(c, RST, 0, NULL, 0);
		c->state = FREE;
	} else if (c->shutdown_sent != c->shutdown) {
		c->shutdown_sent = c->shutdown;
		send(c, SHUTDOWN, c->shutdown, NULL, 0);
	} else if (c->fwd_cnt - c->fwd_cnt_sent >= WINDOW / 4) {
		send(c, CREDIT_UPDATE, 0, NULL, 0);
	}
}

/* forget ends all connections without a word to the host and returns how many. */
static unsigned long forget(void)
{
	unsigned long count = 0;

	for (struct conn *c = connections; c < connections + CONNECTIONS; c++) {
		count += c->state != FREE;
		c->state = FREE;
	}
	return count;
}

static void transport_reset(void)
{
	unsigned long lost = forget();

	cid = virtio_config64(0);
	print("guest: transport reset, cid %lu, %lu connections lost\n", (unsigned long)cid, lost);
}

static void poll_rx(void)
{
	uint16_t n;
	uint32_t length;
	bool posted = false;

	/* What comes may want an answer, so it waits for a free packet. */
	while (tx_free_count > 0 && queue_take(&rx, &n, &length)) {
		receive(&rx_packets[n], length);
		queue_post(&rx, n, &rx_packets[n], sizeof(rx_packets[n]), true);
		posted = true;
	}
	if (posted)
		queue_kick(&rx);
}

static void poll_events(void)
{
	uint16_t n;
	uint32_t length;

	while (queue_take(&events, &n, &length)) {
		if (length != sizeof(event_buffers[n]) || event_buffers[n] != TRANSPORT_RESET)
			die("an unknown event");
		transport_reset();
		queue_post(&events, n, &event_buffers[n], sizeof(event_buffers[n]), true);
		queue_kick(&events);
	}
}

void vsock_poll(void)
{
	uint16_t n, posted = tx.available.index;
	uint32_t length;

	while (queue_take(&tx, &n, &length))
		tx_free[tx_free_count++] = n;
	poll_rx();
	poll_events();
	for (struct conn *c = connections; c < connections + CONNECTIONS; c++) {
		if (c->state == OPEN)
			c->serve(c);
		tend(c);
	}
	if (tx.available.index != posted)
		queue_kick(&tx);
}

void vsock_start(service *at(uint32_t port), uint64_t features)
{
	service_at = at;
	wanted_features = features;
	vsock_restart();
}

void vsock_restart(void)
{
	forget();
	virtio_start(DEVICE_ID, VIRTIO_F_VERSION_1 | wanted_features);
	queue_start(&rx, 0);
	queue_start(&tx, 1);
	queue_start(&events, 2);
	cid = virtio_config64(0);
	virtio_run();

	for (uint16_t n = 0; n < rx.size; n++)
		queue_post(&rx, n, &rx_packets[n], sizeof(rx_packets[n]), true);
	for (uint16_t n = 0; n < events.size; n++)
		queue_post(&events, n, &event_buffers[n], sizeof(event_buffers[n]), true);
	for (tx_free_count = 0; tx_free_count < tx.size; tx_free_count++)
		tx_free[tx_free_count] = tx_free_count;
	queue_kick(&rx);
	queue_kick(&events);
	print("guest: ready, cid %lu\n", (unsigned long)cid);
}

uint32_t vsock_read(struct conn *c, uint8_t *to, uint32_t n)
{
	uint32_t total = 0;

	while (total < n && c->fwd_cnt != c->rx_cnt) {
		uint32_t at = c->fwd_cnt % WINDOW;
		uint32_t some = c->rx_cnt - c->fwd_cnt;
		if (some > WINDOW - at)
			some = WINDOW - at;
		if (some > n - total)
			some = n - total;
		memcpy(to + total, c->window + at, some);
		c->fwd_cnt += some;
		total += some;
	}
	return total;
}

bool vsock_ended(const struct conn *c)
{
	return c->host_shutdown & SHUTDOWN_SEND && c->fwd_cnt == c->rx_cnt;
}

uint32_t vsock_room(const struct conn *c)
{
	uint32_t in_flight = c->tx_cnt - c->host_fwd_cnt;

	if (tx_free_count == 0 || c->shutdown & SHUTDOWN_SEND || c->host_shutdown & SHUTDOWN_RCV ||
	    in_flight >= c->host_buf_alloc)
		return 0;
	uint32_t credit = c->host_buf_alloc - in_flight;
	return credit < PAYLOAD_MAX ? credit : PAYLOAD_MAX;
}

void vsock_write(struct conn *c, const void *from, uint32_t n)
{
	if (n == 0)
		return;
	send(c, RW, 0, from, n);
	c->tx_cnt += n;
}

void vsock_shutdown(struct conn *c, uint8_t flags)
{
	c->shutdown |= flags;
}
