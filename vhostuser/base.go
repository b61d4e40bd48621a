package vhostuser

// packedFirst is the base of a packed ring that was not used yet: slot 0 twice,
// and both wrap counters are 1 (virtio v1.4 §2.8.1).
const packedFirst = 1<<31 | 1<<15

// ringBase is where a ring's queue begins: what VHOST_USER_SET_VRING_BASE said,
// or where the queue stopped since.
//
// In a packed ring 0 is a place of every second lap. UML, which never asks where
// a ring stopped, says 0 of each ring that begins. So it is believed only of who
// was answered so.
type ringBase struct {
	value    uint32
	literal  bool // 0 is meant
	answered bool // the latest answer was 0, of a packed ring
}

// set takes what the frontend says.
func (b *ringBase) set(value uint32) { b.value, b.literal = value, b.answered }

// stop takes where the queue has stopped.
func (b *ringBase) stop(value uint32) { b.value, b.literal = value, true }

// answer returns what VHOST_USER_GET_VRING_BASE answers.
func (b *ringBase) answer(packed bool) uint32 {
	value := b.first(packed)
	b.answered = packed && value == 0
	return value
}

// first returns where the queue is to begin.
func (b *ringBase) first(packed bool) uint32 {
	if b.fresh(packed) {
		return packedFirst
	}
	return b.value
}

// fresh reports whether a packed ring is said to begin by a base of 0.
func (b *ringBase) fresh(packed bool) bool { return packed && b.value == 0 && !b.literal }
