/*
 * The virtio device of the machine: its PCI transport and its split rings (virtio v1.4
 * §4.1 and §2.7). There is one device, and it is polled.
 */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "machine.h"

#define QUEUE_MAX 128

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct available {
	uint16_t flags;
	uint16_t index;
	uint16_t ring[QUEUE_MAX];
};

struct used {
	uint16_t flags;
	uint16_t index;
	struct {
		uint32_t id;
		uint32_t length;
	} ring[QUEUE_MAX];
};

/* PAGE is what a migration copies. What the device writes lies in pages of its own, or a
 * write of ours would hide that the device's was not logged. */
#define PAGE 4096

/* A queue of buffers of one descriptor each: buffer n is described by descriptor n. */
struct queue {
	_Alignas(16) struct descriptor descriptors[QUEUE_MAX];
	_Alignas(2) volatile struct available available;
	uint16_t size;
	uint16_t taken; /* how many buffers came back, modulo 2^16 */
	uint16_t index; /* of the queue among the device's */
	volatile uint16_t *doorbell;
	_Alignas(PAGE) volatile struct used used;
};

#define VIRTIO_F_VERSION_1 (1ull << 32)
#define VIRTIO_F_IN_ORDER  (1ull << 35)

/* virtio_start resets the device with an id and takes those features that it offers. */
void virtio_start(uint16_t id, uint64_t features);

/* virtio_run tells the device that all queues are set up. */
void virtio_run(void);

/* virtio_config64 reads eight bytes of the device's configuration. */
uint64_t virtio_config64(unsigned offset);

/* queue_start hands the ring with an index to the device. */
void queue_start(struct queue *q, uint16_t index);

/* queue_post makes buffer n available, for the device to read or to write. */
void queue_post(struct queue *q, uint16_t n, void *buffer, uint32_t length, bool device_writes);

/* queue_kick tells the device of what was posted, if it wants to know. */
void queue_kick(struct queue *q);

/* queue_take returns whether the device is done with a buffer, which one, and how many
 * bytes it wrote. */
bool queue_take(struct queue *q, uint16_t *n, uint32_t *length);

#endif
