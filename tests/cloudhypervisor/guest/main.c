/*
 * A guest without an operating system: a driver of virtio-vsock and some services, for
 * machines that no Linux runs on. It tells on the serial console what the host cannot
 * see by itself.
 */
#include "pattern.h"
#include "services.h"
#include "text.h"
#include "virtio.h"

/* struct hvm_start_info, what PVH tells a guest. */
struct start_info {
	uint32_t magic, version, flags, module_count;
	uint64_t modules;
	uint64_t command_line;
};

void main(const struct start_info *info)
{
	const char *words = info->command_line ? (const char *)info->command_line : "";

	pattern_make();
	vsock_start(service_at, after(words, "in-order") ? VIRTIO_F_IN_ORDER : 0);
	for (;;) {
		vsock_poll();
		relax();
	}
}
