/*
 * A guest without an operating system: a driver of virtio-vsock and some services, for
 * machines that no Linux runs on. It tells on the serial console what the host cannot
 * see by itself.
 */
#include "console.h"
#include "pattern.h"
#include "services.h"

void main(void)
{
	pattern_make();
	vsock_start(service_at);
	print("guest: ready, cid %lu\n", (unsigned long)vsock_cid());
	for (;;) {
		vsock_poll();
		relax();
	}
}
