package vhostuser

import (
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
	log     ringLog   // VHOST_USER_SET_VRING_ADDR
	base    ringBase  // VHOST_USER_SET_VRING_BASE, then where the queue stopped
	started bool      // a kick, or the means to kick, came, and no VHOST_USER_GET_VRING_BASE since
	enabled bool      // VHOST_USER_SET_VRING_ENABLE

	kick, call, fault notifier // VHOST_USER_SET_VRING_KICK, _CALL, _ERR
	polled            bool     // kick is served by the loop
	kickedAt          uint64   // chains that the ring had served at the last kick
	idleKicks         int      // since then

	queue   *virtqueue.Queue // nil until the ring first runs and after forget
	config  virtqueue.Config // of queue
	logged  virtqueue.Log    // by queue
	running bool             // the device has queue
	ran     bool             // the ring has run in this session, with the device's present state
	left    *position        // where the ring last stopped; nil if there is nothing to go on with
}

func newVring(s *session, index int) *vring {
	none := notifier{fd: -1}
	return &vring{session: s, index: index, kick: none, call: none, fault: none}
}

func (r *vring) shape() shape { return shape{r.size, r.session.packed()} }

// layout returns what the ring's queue is to be made of.
func (r *vring) layout(memory *guestmem.Table) (cfg virtqueue.Config, ok bool) {
	cfg, ok = r.parts.translate(memory, r.shape())
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

// open makes the ring's queue, unless it goes on with the one it had. A ring
// that cannot have one is broken.
func (r *vring) open() {
	if r.queue != nil {
		return
	}
	s := r.session
	r.config, _ = r.layout(s.memory)
	queue, err := virtqueue.New(s.memory, r.config, r.base.first(r.config.Packed))
	if err != nil {
		r.started = false
		r.broken(err)
		return
	}
	queue.Interrupt = r.interrupt
	queue.OnBroken = r.broken
	queue.Stats = &s.server.queueStats(r.index).Stats
	r.queue = queue
	r.logged = virtqueue.Log{}
	r.relog()
}

// relog makes the ring's queue, if there is one, log what it is to log now.
func (r *vring) relog() {
	s := r.session
	log := virtqueue.Log{
		Dirty:    s.dirty,
		Buffers:  s.features&FeatureLogAll != 0,
		Used:     r.log.on,
		UsedAddr: r.log.addr,
	}
	if r.queue != nil && log != r.logged {
		r.queue.SetLog(log)
		r.logged = log
	}
}

// start hands the ring to the device, if open was able to make its queue.
func (r *vring) start() {
	if r.queue == nil {
		return
	}
	s := r.session
	goesOn := r.left != nil
	r.left = nil
	r.running, r.ran, s.used = true, true, true
	r.poll()
	s.server.queueStats(r.index).Starts.Inc()
	s.server.device.StartQueue(r.index, r.queue)
	if goesOn {
		r.interrupt() // the driver may have missed one while it was paused
	}
}

// broken counts what is wrong with the ring and tells the frontend.
func (r *vring) broken(err error) {
	s := r.session
	reason := ringFault(err)
	s.server.queueStats(r.index).Errors[reason].Inc()
	if log, ok := s.server.limits.broken.Entry(s.log, s.server.loop.Now()); ok {
		log.WithError(err).WithField("queue", r.index).WithField("reason", reason.String()).Warn("ring is broken")
	}
	if r.viaMessage(&r.fault) {
		s.backend.fault(r.index)
		return
	}
	r.signal(&r.fault)
}

// interrupt sends the driver a used buffer notification.
func (r *vring) interrupt() {
	if r.viaMessage(&r.call) {
		r.session.backend.call(r.index)
		return
	}
	r.signal(&r.call)
}

// signal signals n, now or when the kernel has memory for it.
func (r *vring) signal(n *notifier) {
	if n.signal(); n.due {
		r.session.awaitMemory()
	}
}

// retry sends the signals that are due.
func (r *vring) retry() {
	for _, n := range [...]*notifier{&r.call, &r.fault} {
		if n.due {
			r.signal(n)
		}
	}
}

// viaMessage reports whether a message does for n: where the frontend has passed
// no descriptor, and has not said that it does without.
func (r *vring) viaMessage(n *notifier) bool {
	return !n.present() && !n.declined && r.session.inBand()
}

// stop takes the ring back from the device, which serves it to the end first.
// The queue is kept: a ring that is only switched off and on again goes on.
// Precondition: the ring is running.
func (r *vring) stop() {
	r.running = false // whatever happens below
	r.unpoll()
	r.session.server.device.StopQueue(r.index)
	r.session.backend.forget(r.index)
	r.call.due = false // as there
	r.left = r.position()
	r.base.stop(r.left.base)
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
	r.size, r.parts, r.placed, r.log, r.base = 0, ringParts{}, false, ringLog{}, ringBase{}
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

// leave drops the queue of a ring that is not in another memory table, or is
// elsewhere in the guest there.
func (r *vring) leave(table *guestmem.Table) {
	if cfg, ok := r.layout(table); r.queue != nil && (!ok || cfg != r.config) {
		r.forget()
	}
}

// move binds the ring to another memory table, which it did not leave. It touches
// neither memory.
func (r *vring) move(table *guestmem.Table) {
	if r.queue != nil && r.queue.Rebind(table) != nil {
		r.forget()
	}
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
	if !r.kick.drain() || r.idleKick() {
		r.unpoll()
	}
	r.session.server.run(r.kicked)
}

// idleKick counts the kicks since a chain was last served, and reports whether there
// are more than chains fit into the ring: it is not a driver who kicks then, but a
// descriptor that is always ready, such as a timer's.
func (r *vring) idleKick() bool {
	// Not the queue's base: a driver that is not asked to kick does so nevertheless when
	// it comes round to where it was asked last.
	if chains := r.queue.Stats.Chains.Load(); chains != r.kickedAt {
		r.kickedAt, r.idleKicks = chains, 0
	}
	r.idleKicks++
	return r.idleKicks > r.size
}

// kicked passes a kick on.
func (r *vring) kicked() error {
	server := r.session.server
	server.queueStats(r.index).Kicks.Inc()
	server.device.Kick(r.index)
	return nil
}

// poll lets the loop serve kicks. Whether a descriptor can be polled was found
// out when it came, so this only fails for want of kernel memory.
func (r *vring) poll() {
	r.idleKicks = 0
	r.polled = r.kick.present() && r.session.server.loop.Add(r.kick.fd, unix.EPOLLIN, r) == nil
}

// untended reports whether nobody can kick for the ring, so that it is looked
// at from time to time: the frontend detached its descriptor, or it is of no use, and
// does not send VHOST_USER_VRING_KICK instead.
func (r *vring) untended() bool {
	return r.running && !r.polled && !r.viaMessage(&r.kick) && r.queue.Broken() == nil
}

func (r *vring) unpoll() {
	if r.polled {
		r.polled = false
		r.session.server.loop.Remove(r.kick.fd) // fails for an unknown one only
	}
}
