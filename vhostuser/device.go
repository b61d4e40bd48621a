package vhostuser

import (
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// Device is what a session's rings belong to. All methods run on the loop's
// goroutine, in this order:
//
//	Attach
//	    { Negotiated | Reset | SaveState | LoadState |
//	      Inherit | StartQueue ... Kick ... StopQueue } in any number
//	Detach
//
// Guest memory may be touched inside these methods only. The frontend can
// shrink that memory at any time; an access then panics out of the method, and
// the session ends. Such a device must survive having been interrupted at any
// access to guest memory: StopQueue and Detach still follow.
type Device interface {
	// Features returns the feature bits offered, those of the rings included.
	Features() uint64
	// Config fills p with the config space from offset 0, zeros behind its end.
	Config(p []byte)

	// Attach says that a frontend's session has begun.
	Attach()
	// Negotiated says which of the offered features the driver took. No queue
	// runs meanwhile.
	Negotiated(features uint64)
	// StartQueue hands over a running queue. The ring may hold buffers for
	// which nobody will kick, so it must be looked at once.
	StartQueue(index int, q *virtqueue.Queue)
	// Kick says that the driver may have made buffers available. It is only
	// called for a queue that runs.
	Kick(index int)
	// StopQueue takes a queue back. The device serves what the driver has
	// published if nobody else could, gives back what it holds, and forgets the
	// queue: its memory is valid until StopQueue returns, and no longer.
	StopQueue(index int)
	// Inherit says that a ring about to start was in use before this session:
	// its driver goes on, and whatever connections it had with an earlier
	// session, or with an earlier process, were lost behind its back. It is
	// called before StartQueue, at most once a session.
	Inherit()
	// Reset says that a driver began anew: its connections are over, and it
	// knows. It is called before StartQueue.
	Reset()
	// Detach says that the session is over, and with it all connections. Their
	// driver need not know: it may go on in a later session. No queue is left,
	// whatever StopQueue was able to do.
	Detach()

	// SaveState returns the device's state for VHOST_USER_SET_DEVICE_STATE_FD,
	// at most MaxState bytes. It goes on unchanged. No queue runs.
	SaveState() []byte
	// LoadState takes what an earlier SaveState returned, of this or another
	// process. The error says why it cannot be used; then nothing has changed.
	// p remains the caller's. No queue runs.
	LoadState(p []byte) error

	// Work and those that follow are the device's part of the loop's turn; they
	// run with and without a session. See eventloop.Worker.
	Work() (more bool)
	Rest() (more bool)
	Look() (more bool)
	Deadline() (at time.Duration, ok bool)
	Expire(now time.Duration)
}
