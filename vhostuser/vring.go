package vhostuser

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// vring is one ring of a session: what the frontend said about it, and its queue.
type vring struct {
	session *session
	index   int

	size    int       // VHOST_USER_SET_VRING_NUM, 0 before it
	parts   ringParts // VHOST_USER_SET_VRING_ADDR
	placed  bool      // that message came
	base    uint16    // VHOST_USER_SET_VRING_BASE, then the entry after the last one popped
	started bool      // VHOST_USER_SET_VRING_KICK came, and no VHOST_USER_GET_VRING_BASE since
	enabled bool      // VHOST_USER_SET_VRING_ENABLE

	kick, call, fault notifier // VHOST_USER_SET_VRING_KICK, _CALL, _ERR
	polled            bool     // kick is served by the loop

	queue   *virtqueue.Queue // nil until the ring first runs and after forget
	config  virtqueue.Config // of queue
	running bool             // the device has queue
	left    *position        // where the ring last stopped; nil if there is nothing to go on with
}

// position is where a ring stands. A driver that goes on after a pause finds its
// ring as it left it; one that began anew does not.
type position struct {
	size       int
	parts      ringParts
	base, used uint16
}

func newVring(s *session, index int) *vring {
	none := notifier{fd: -1}
	return &vring{session: s, index: index, kick: none, call: none, fault: none}
}

// layout returns what the ring's queue is to be made of.
func (r *vring) layout(memory *guestmem.Table) (cfg virtqueue.Config, ok bool) {
	cfg, ok = r.parts.translate(memory, r.size)
	cfg.EventIdx = r.session.features&FeatureEventIdx != 0
	cfg.Indirect = r.session.features&FeatureIndirectDesc != 0
	return cfg, ok
}

// runnable reports whether the device should have the ring.
func (r *vring) runnable() bool {
	s := r.session
	if !s.negotiated || r.size == 0 || !r.placed || !r.started {
		return false
	}
	// Rings have no switch where VHOST_USER_F_PROTOCOL_FEATURES was not taken.
	if !r.enabled && s.features&FeatureProtocolFeatures != 0 {
		return false
	}
	_, ok := r.layout(s.memory)
	return ok
}

// start hands the ring to the device.
func (r *vring) start() {
	s := r.session
	resumed := r.queue != nil
	if !resumed && !r.open() {
		return
	}
	r.left = nil
	r.running, s.used = true, true
	r.poll()
	s.server.queueStats(r.index).Starts.Inc()
	s.server.device.StartQueue(r.index, r.queue)
	if resumed {
		r.call.signal() // the driver may have missed one while it was paused
	}
}

// open makes the ring's queue. A ring that cannot have one is broken.
func (r *vring) open() bool {
	s := r.session
	r.config, _ = r.layout(s.memory)
	queue, err := virtqueue.New(s.memory, r.config, uint32(r.base))
	if err != nil {
		r.started = false
		r.broken(err)
		return false
	}
	queue.Interrupt = r.call.signal
	queue.OnBroken = r.broken
	queue.Stats = &s.server.queueStats(r.index).Stats
	r.queue = queue
	return true
}

// broken counts what is wrong with the ring and tells the frontend.
func (r *vring) broken(err error) {
	s := r.session
	reason := ringFault(err)
	s.server.queueStats(r.index).Errors[reason].Inc()
	if log, ok := s.server.limits.broken.Entry(s.log, s.server.loop.Now()); ok {
		log.WithError(err).WithField("queue", r.index).WithField("reason", reason.String()).Warn("ring is broken")
	}
	r.fault.signal()
}

// stop takes the ring back from the device, which serves it to the end first.
// The queue is kept: a ring that is only switched off and on again goes on.
// Precondition: the ring is running.
func (r *vring) stop() {
	r.running = false // whatever happens below
	r.unpoll()
	r.session.server.device.StopQueue(r.index)
	r.base = uint16(r.queue.Base())
	r.left = &position{size: r.size, parts: r.parts, base: r.base, used: r.queue.UsedIdx()}
}

// forget stops the ring and drops its queue: it will start from its base.
func (r *vring) forget() {
	if r.running {
		r.stop()
	}
	r.queue = nil
}

// reset forgets what the driver set up (VHOST_USER_RESET_DEVICE). Where to call
// and to tell errors is the frontend's.
func (r *vring) reset() {
	r.forget()
	r.size, r.parts, r.placed, r.base = 0, ringParts{}, false, 0
	r.started, r.enabled = false, false
	r.kick.drop()
}

// close releases the ring's descriptors.
// Precondition: the ring is not running.
func (r *vring) close() {
	r.kick.drop()
	r.call.drop()
	r.fault.drop()
}

// move binds the ring to another memory table. A ring that is not there, or
// elsewhere in the guest, loses its queue while the old table is still mapped.
func (r *vring) move(table *guestmem.Table) {
	if r.queue == nil {
		return
	}
	if cfg, ok := r.layout(table); !ok || cfg != r.config || r.queue.Rebind(table) != nil {
		r.forget()
	}
}

// anew reports whether the driver of a stopped ring has begun from the start:
// the ring is not what and where it was when it stopped.
func (r *vring) anew() bool {
	if r.left == nil {
		return false
	}
	if r.size != r.left.size || r.parts != r.left.parts || r.base != r.left.base {
		return true
	}
	cfg, ok := r.parts.translate(r.session.memory, r.size)
	if !ok {
		return false
	}
	var used [2]byte
	const usedIdx = 2 // offset in the used ring, virtio v1.4 §2.7.8
	if r.session.memory.Read(cfg.Used+usedIdx, used[:]) != nil {
		return false
	}
	return binary.LittleEndian.Uint16(used[:]) != r.left.used
}

// setKick takes ownership of fd; with -1 nobody kicks.
func (r *vring) setKick(fd int) {
	r.unpoll()
	r.kick.set(fd)
	if r.running {
		r.poll()
	}
}

// HandleEvents serves a kick.
func (r *vring) HandleEvents(uint32) {
	if !r.kick.drain() {
		r.unpoll()
	}
	server := r.session.server
	server.queueStats(r.index).Kicks.Inc()
	server.run(func() error {
		server.device.Kick(r.index)
		return nil
	})
}

// poll lets the loop serve kicks. Whether a descriptor can be polled was found
// out when it came, so this only fails for want of kernel memory.
func (r *vring) poll() {
	r.polled = r.kick.present() && r.session.server.loop.Add(r.kick.fd, unix.EPOLLIN, r) == nil
}

// untended reports whether nobody can kick for the ring, so that it is looked
// at from time to time: the frontend detached its descriptor, or closed it.
func (r *vring) untended() bool { return r.running && !r.polled && r.queue.Broken() == nil }

func (r *vring) unpoll() {
	if r.polled {
		r.polled = false
		r.session.server.loop.Remove(r.kick.fd) // fails for an unknown one only
	}
}
