#include "virtio.h"

#include "console.h"
#include "pci.h"

#define VENDOR          0x1af4
#define MODERN_DEVICES  0x1040 /* a device's PCI id is its virtio id above this */
#define VENDOR_SPECIFIC 0x09  /* PCI capability */

/* Offsets in a capability, virtio v1.4 §4.1.4. */
#define CAPABILITY_TYPE       3
#define CAPABILITY_BAR        4
#define CAPABILITY_OFFSET     8
#define CAPABILITY_LENGTH     12
#define CAPABILITY_MULTIPLIER 16

enum capability_type { COMMON = 1, NOTIFY = 2, DEVICE = 4 };

/* Device status, virtio v1.4 §2.1. */
#define ACKNOWLEDGE 1
#define DRIVER      2
#define DRIVER_OK   4
#define FEATURES_OK 8

/* VIRTQ_DESC_F_WRITE and VIRTQ_USED_F_NO_NOTIFY. */
#define DEVICE_WRITES 2
#define NO_NOTIFY     1

/* struct virtio_pci_common_cfg, virtio v1.4 §4.1.4.3. */
struct common {
	uint32_t device_feature_select;
	uint32_t device_feature;
	uint32_t driver_feature_select;
	uint32_t driver_feature;
	uint16_t config_msix_vector;
	uint16_t num_queues;
	uint8_t device_status;
	uint8_t config_generation;
	uint16_t queue_select;
	uint16_t queue_size;
	uint16_t queue_msix_vector;
	uint16_t queue_enable;
	uint16_t queue_notify_off;
	uint32_t queue_desc[2];
	uint32_t queue_driver[2];
	uint32_t queue_device[2];
};

static volatile struct common *common;
static volatile uint32_t *config;
static volatile uint8_t *doorbells;
static uint32_t doorbell_multiplier;

/* find_structure maps a structure that a capability of the device tells of; at is the
 * capability's offset. */
static volatile void *find_structure(int slot, enum capability_type type, uint8_t *at)
{
	for (*at = 0; (*at = pci_capability(slot, VENDOR_SPECIFIC, *at)) != 0;) {
		if (pci_read8(slot, *at + CAPABILITY_TYPE) != type)
			continue;
		uint64_t bar = pci_bar(slot, pci_read8(slot, *at + CAPABILITY_BAR));
		return map_device(bar + pci_read32(slot, *at + CAPABILITY_OFFSET),
				  pci_read32(slot, *at + CAPABILITY_LENGTH));
	}
	die("the device lacks a virtio structure");
}

static uint32_t negotiate(unsigned word, uint32_t features)
{
	common->device_feature_select = word;
	features &= common->device_feature;
	common->driver_feature_select = word;
	common->driver_feature = features;
	return features;
}

static void find_device(uint16_t id)
{
	int slot = pci_find(VENDOR, MODERN_DEVICES + id);
	uint8_t at;

	if (slot < 0)
		die("no such device");
	pci_enable(slot);
	common = find_structure(slot, COMMON, &at);
	config = find_structure(slot, DEVICE, &at);
	doorbells = find_structure(slot, NOTIFY, &at);
	doorbell_multiplier = pci_read32(slot, at + CAPABILITY_MULTIPLIER);
}

void virtio_start(uint16_t id, uint64_t features)
{
	if (!common)
		find_device(id);
	common->device_status = 0;
	while (common->device_status != 0)
		relax();
	common->device_status = ACKNOWLEDGE | DRIVER;
	negotiate(0, (uint32_t)features);
	negotiate(1, (uint32_t)(features >> 32));
	common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
	if (!(common->device_status & FEATURES_OK))
		die("the device refuses the features");
}

void virtio_run(void)
{
	common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

uint64_t virtio_config64(unsigned offset)
{
	for (;;) {
		uint8_t generation = common->config_generation;
		uint64_t low = config[offset / 4], high = config[offset / 4 + 1];
		if (generation == common->config_generation)
			return high << 32 | low;
	}
}

static void set_address(volatile uint32_t *field, volatile void *address)
{
	field[0] = (uint32_t)(uintptr_t)address;
	field[1] = (uint32_t)((uintptr_t)address >> 32);
}

void queue_start(struct queue *q, uint16_t index)
{
	memset(q, 0, sizeof(*q));
	common->queue_select = index;
	q->index = index;
	q->size = common->queue_size;
	if (q->size == 0)
		die("the device lacks a queue");
	if (q->size > QUEUE_MAX)
		q->size = QUEUE_MAX;
	common->queue_size = q->size;
	set_address(common->queue_desc, q->descriptors);
	set_address(common->queue_driver, &q->available);
	set_address(common->queue_device, &q->used);
	q->doorbell = (volatile uint16_t *)(doorbells + common->queue_notify_off * doorbell_multiplier);
	common->queue_enable = 1;
}

void queue_post(struct queue *q, uint16_t n, void *buffer, uint32_t length, bool device_writes)
{
	q->descriptors[n] = (struct descriptor){
		.address = (uintptr_t)buffer,
		.length = length,
		.flags = device_writes ? DEVICE_WRITES : 0,
	};
	q->available.ring[q->available.index % q->size] = n;
	order_accesses();
	q->available.index++;
}

void queue_kick(struct queue *q)
{
	barrier(); /* the index is there before we look whether it is waited for */
	if (!(q->used.flags & NO_NOTIFY))
		*q->doorbell = q->index;
}

bool queue_take(struct queue *q, uint16_t *n, uint32_t *length)
{
	if (q->taken == q->used.index)
		return false;
	order_accesses();
	*n = (uint16_t)q->used.ring[q->taken % q->size].id;
	*length = q->used.ring[q->taken % q->size].length;
	q->taken++;
	return true;
}
