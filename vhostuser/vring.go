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
	log     ringLog   // VHOST_USER_SET_VRING_ADDR
	base    uint32    // VHOST_USER_SET_VRING_BASE, then where the queue stopped; see first
	started bool      // a kick, or the means to kick, came, and no VHOST_USER_GET_VRING_BASE since
	literal bool      // base 0 is a position in a packed ring
	patrol  bool      // VHOST_USER_SET_VRING_KICK said that nobody will kick
	enabled bool      // VHOST_USER_SET_VRING_ENABLE

	kick, call, fault notifier // VHOST_USER_SET_VRING_KICK, _CALL, _ERR
	polled            bool     // kick is served by the loop

	queue   *virtqueue.Queue // nil until the ring first runs and after forget
	config  virtqueue.Config // of queue
	logged  virtqueue.Log    // by queue
	resumes bool             // queue has run: it goes on when the ring does
	running bool             // the device has queue
	ran     bool             // the ring has run in this session

	answered bool      // the latest answer to VHOST_USER_GET_VRING_BASE was 0, of a packed ring
	left     *position // where the ring last stopped; nil if there is nothing to go on with
}

// position is where a ring stands. A driver that goes on after a pause finds its
// ring as it left it; one that began anew does not.
type position struct {
	shape shape
	parts ringParts
	base  uint32
	used  uint16 // used.idx, which a packed ring does not have
}

// packedFirst is the base of a packed ring that was not used yet: slot 0 twice,
// and both wrap counters are 1 (virtio v1.4 §2.8.1).
const packedFirst = 1<<31 | 1<<15

func newVring(s *session, index int) *vring {
	none := notifier{fd: -1}
	return &vring{session: s, index: index, kick: none, call: none, fault: none}
}

func (r *vring) shape() shape { return shape{r.size, r.session.packed()} }

// first returns where the ring's queue is to begin. In a packed ring 0 is a place
// in some later lap, but UML, which never asks where a ring stopped, says 0 of
// each ring that begins.
func (r *vring) first() uint32 {
	if r.fresh() {
		return packedFirst
	}
	return r.base
}

// fresh reports whether base says of a packed ring that it begins.
func (r *vring) fresh() bool { return r.session.packed() && r.base == 0 && !r.literal }

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
	queue, err := virtqueue.New(s.memory, r.config, r.first())
	if err != nil {
		r.started = false
		r.broken(err)
		return
	}
	queue.Interrupt = r.interrupt
	queue.OnBroken = r.broken
	queue.Stats = &s.server.queueStats(r.index).Stats
	r.queue, r.resumes = queue, false
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

// start hands the ring to the device, if open was able to make its queue.
func (r *vring) start() {
	if r.queue == nil {
		return
	}
	s := r.session
	r.left = nil
	r.running, r.ran, s.used = true, true, true
	r.poll()
	s.server.queueStats(r.index).Starts.Inc()
	s.server.device.StartQueue(r.index, r.queue)
	if r.resumes {
		r.interrupt() // the driver may have missed one while it was paused
	}
	r.resumes = true
}

// broken counts what is wrong with the ring and tells the frontend.
func (r *vring) broken(err error) {
	s := r.session
	reason := ringFault(err)
	s.server.queueStats(r.index).Errors[reason].Inc()
	if log, ok := s.server.limits.broken.Entry(s.log, s.server.loop.Now()); ok {
		log.WithError(err).WithField("queue", r.index).WithField("reason", reason.String()).Warn("ring is broken")
	}
	switch {
	case r.fault.present():
		r.fault.signal()
	case s.inBand():
		s.backend.fault(r.index)
	}
}

// interrupt sends the driver a used buffer notification.
func (r *vring) interrupt() {
	switch {
	case r.call.present():
		r.call.signal()
	case r.session.inBand():
		r.session.backend.call(r.index)
	}
}

// stop takes the ring back from the device, which serves it to the end first.
// The queue is kept: a ring that is only switched off and on again goes on.
// Precondition: the ring is running.
func (r *vring) stop() {
	r.running = false // whatever happens below
	r.unpoll()
	r.session.server.device.StopQueue(r.index)
	r.session.backend.forget(r.index)
	r.base, r.literal = r.queue.Base(), true
	r.left = &position{
		shape: shape{r.config.Size, r.config.Packed},
		parts: r.parts,
		base:  r.base,
		used:  r.queue.UsedIdx(),
	}
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
	r.size, r.parts, r.placed, r.log = 0, ringParts{}, false, ringLog{}
	r.base, r.literal, r.answered = 0, false, false
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
	if r.shape() != r.left.shape || r.parts != r.left.parts || r.base != r.left.base || r.fresh() {
		return true
	}
	cfg, ok := r.parts.translate(r.session.memory, r.shape())
	if !ok || cfg.Packed { // whose memory does not say how far it is
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
	r.patrol = fd < 0
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
	r.session.server.run(r.kicked)
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
	r.polled = r.kick.present() && r.session.server.loop.Add(r.kick.fd, unix.EPOLLIN, r) == nil
}

// untended reports whether nobody can kick for the ring, so that it is looked
// at from time to time: the frontend detached its descriptor, or closed it, and
// does not send VHOST_USER_VRING_KICK instead.
func (r *vring) untended() bool {
	return r.running && !r.polled && (r.patrol || !r.session.inBand()) && r.queue.Broken() == nil
}

func (r *vring) unpoll() {
	if r.polled {
		r.polled = false
		r.session.server.loop.Remove(r.kick.fd) // fails for an unknown one only
	}
}
