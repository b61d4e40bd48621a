package vhostuser

import (
	"encoding/binary"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// position is where a ring stands. A driver that goes on after a pause finds its
// ring as it left it; one that began anew does not.
type position struct {
	shape shape
	parts ringParts
	base  uint32
	used  uint16 // used.idx, which a packed ring does not have
}

// position returns where the ring's queue has stopped.
func (r *vring) position() *position {
	return &position{
		shape: shape{r.config.Size, r.config.Packed},
		parts: r.parts,
		base:  r.queue.Base(),
		used:  r.queue.UsedIdx(),
	}
}

// anew reports whether the driver of a stopped ring has begun from the start:
// the ring is not what and where it was when it stopped.
func (r *vring) anew() bool {
	if r.left == nil {
		return false
	}
	s := r.session
	if r.base.fresh(s.packed()) {
		return true
	}
	now := position{shape: r.shape(), parts: r.parts, base: r.base.first(s.packed()), used: r.left.used}
	if cfg, ok := r.layout(s.memory); ok && !cfg.Packed {
		now.used = usedIdx(s.memory, cfg)
	}
	return now != *r.left
}

// usedIdx reads used.idx of a split ring that is in memory (virtio v1.4 §2.7.8).
func usedIdx(memory *guestmem.Table, cfg virtqueue.Config) uint16 {
	var idx [2]byte
	const offset = 2
	_ = memory.Read(cfg.Used+offset, idx[:]) // fails only for what is not in memory
	return binary.LittleEndian.Uint16(idx[:])
}

// inherited reports whether the ring was in use before the session: it has not
// run yet, and its queue is not where a driver begins.
func (r *vring) inherited() bool {
	switch {
	case r.queue == nil || r.ran:
		return false
	case r.config.Packed:
		return r.queue.Base() != packedFirst
	}
	return r.queue.Base() != 0 || r.queue.UsedIdx() != 0
}
