package virtqueuetest

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// Kick publishes what was added and kicks the device if it asked for it. It
// reports whether it did.
func (r *Ring) Kick() bool {
	r.Publish()
	if !r.ShouldKick() {
		return false
	}
	r.ForceKick()
	return true
}

// ForceKick kicks the device, wanted or not.
func (r *Ring) ForceKick() { r.kick.signal() }

// ShouldKick reports whether the device wants a kick for what was published
// since the last call.
func (r *Ring) ShouldKick() bool { return r.wantsKick() }

// ArmInterrupt asks for an interrupt at the next used chain. more means that one
// is there already, for which none may come.
func (r *Ring) ArmInterrupt() (more bool) {
	r.armInterrupt()
	guestmem.Fence() // our wish before what the device has used
	return r.hasUsed()
}

// DisarmInterrupt asks for no interrupt.
func (r *Ring) DisarmInterrupt() { r.disarmInterrupt() }

// Interrupt is what the device does to interrupt the driver: the Interrupt of a
// virtqueue.Queue.
func (r *Ring) Interrupt() { r.interrupt.signal() }

// KickFd returns the eventfd that Kick writes. It remains the Ring's.
func (r *Ring) KickFd() int { return int(r.kick) }

// CallFd returns the eventfd that Interrupt writes. It remains the Ring's.
func (r *Ring) CallFd() int { return int(r.interrupt) }

// WaitKick waits for a kick, takes all that came and reports whether any did
// before the time-out.
func (r *Ring) WaitKick(timeout time.Duration) bool { return r.kick.wait(timeout) > 0 }

// WaitInterrupt waits for an interrupt, takes all that came and reports whether
// any did before the time-out.
func (r *Ring) WaitInterrupt(timeout time.Duration) bool { return r.interrupt.wait(timeout) > 0 }

// Interrupts takes all interrupts that came and returns how many.
func (r *Ring) Interrupts() uint64 { return r.interrupt.wait(0) }

// eventFd is the number of a non-blocking eventfd.
type eventFd int

func newEventFd(tb testing.TB) eventFd {
	tb.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		tb.Fatal("eventfd:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return eventFd(fd)
}

// one is what adds one to an eventfd.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// signal adds one. A counter that is full has woken its reader before.
func (fd eventFd) signal() { unix.Write(int(fd), one) }

// wait returns the count, and 0 if there is none before the time-out.
func (fd eventFd) wait(timeout time.Duration) uint64 {
	for deadline := time.Now().Add(timeout); ; {
		var count [8]byte
		if _, err := unix.Read(int(fd), count[:]); err == nil {
			return binary.NativeEndian.Uint64(count[:])
		}
		left := time.Until(deadline)
		if left <= 0 {
			return 0
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		unix.Poll(poll, int(left.Milliseconds())+1)
	}
}
