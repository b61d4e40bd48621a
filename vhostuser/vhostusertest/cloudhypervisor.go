package vhostusertest

import "github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"

// CloudHypervisor replays --generic-vhost-user. After the negotiation every
// message carries NEED_REPLY, those with a reply of their own too.
type CloudHypervisor struct {
	*Frontend
	*Guest
	// Queues is how many its command line gives the device: 3, or 2 for one
	// without an event ring.
	Queues   int
	offered  uint64
	protocol vhostuser.ProtocolFeatures
	log      *DirtyLog // of a migration, nil outside
}

const (
	chRings    = 3
	chRingSize = 128
	chKnown    = vhostuser.ProtocolMQ | vhostuser.ProtocolReplyAck | vhostuser.ProtocolBackendReq | vhostuser.ProtocolConfig |
		vhostuser.ProtocolConfigureMemSlots | vhostuser.ProtocolLogShmfd | vhostuser.ProtocolDeviceState |
		1<<12 // INFLIGHT_SHMFD
	chFeatures = vhostuser.FeatureIndirectDesc | vhostuser.FeatureEventIdx | vhostuser.FeatureVersion1 |
		1<<35 | 1<<36 | 1<<38 // IN_ORDER, ORDER_PLATFORM, NOTIFICATION_DATA
)

// NewCloudHypervisor replays cloud-hypervisor.
func NewCloudHypervisor(f *Frontend, g *Guest) *CloudHypervisor {
	return &CloudHypervisor{Frontend: f, Guest: g, Queues: chRings}
}

func (c *CloudHypervisor) Init() {
	c.Frontend.tb.Helper()
	c.SetOwner()
	c.offered = c.GetFeatures()
	c.protocol = c.Frontend.protocol(chKnown)
	c.NeedReply = c.protocol&vhostuser.ProtocolReplyAck != 0
	if n := c.GetQueueNum(); n < chRings {
		c.Frontend.tb.Fatalf("backend has %d queues, %d are wanted", n, chRings)
	}
}

func (c *CloudHypervisor) Start() {
	c.Frontend.tb.Helper()
	c.probe(c.Queues, chRingSize, c.driver(c.offered&chFeatures))
	c.activate(c.availIdx)
	// The guest reads its address, word by word.
	c.GetConfig(0, 4, 0)
	c.GetConfig(4, 4, 0)
}

// activate sets up all rings, the base of each where next says.
func (c *CloudHypervisor) activate(next func(i int) uint32) {
	c.Frontend.tb.Helper()
	c.SetFeatures(c.features())
	c.SetMemTable(c.regions, c.fds, 0)
	for i, r := range c.Rings {
		c.SetVringNum(uint32(i), uint32(r.Config().Size))
	}
	for i, r := range c.Rings {
		c.SetVringAddr(c.addr(i, 0))
		c.SetVringBase(uint32(i), next(i))
		c.SetVringCall(uint32(i), r.CallFd())
		c.SetVringKick(uint32(i), r.KickFd())
	}
	c.enable(true)
	c.SetBackendReqFd()
}

// features are those in force while no migration is under way.
func (c *CloudHypervisor) features() uint64 {
	return c.driver(c.offered&chFeatures) | vhostuser.FeatureProtocolFeatures
}

func (c *CloudHypervisor) enable(on bool) {
	c.Frontend.tb.Helper()
	for i := range c.Rings {
		c.SetVringEnable(uint32(i), on)
	}
}

func (c *CloudHypervisor) Stop() { c.Frontend.tb.Helper(); c.enable(false) }

func (c *CloudHypervisor) Resume() { c.Frontend.tb.Helper(); c.enable(true) }

func (c *CloudHypervisor) Reset() {
	c.Frontend.tb.Helper()
	for i := range c.Rings {
		c.SetVringEnable(uint32(i), false)
		c.GetVringBase(uint32(i))
	}
}

func (c *CloudHypervisor) Shutdown() { c.Close() }

// Reconnect is what follows when the backend was lost: the same rings on a new
// connection, each from what its driver has published.
func (c *CloudHypervisor) Reconnect(f *Frontend) {
	c.Frontend.Close()
	c.Frontend = f
	c.Init()
	c.activate(c.availIdx)
}

// Snapshot pauses the guest and returns the device's state and where the rings
// stopped. Continue, or Restore on another connection, may follow.
func (c *CloudHypervisor) Snapshot() (state []byte, bases []uint32) {
	c.Frontend.tb.Helper()
	c.Stop()
	for i := range c.Rings {
		bases = append(bases, c.GetVringBase(uint32(i)))
	}
	return c.SaveState(), bases
}

// Continue lets the guest go on after a Snapshot.
func (c *CloudHypervisor) Continue(bases []uint32) {
	c.Frontend.tb.Helper()
	c.activate(func(i int) uint32 { return bases[i] })
}

// Restore brings the guest back on a new connection: the state before the rings.
func (c *CloudHypervisor) Restore(f *Frontend, state []byte, bases []uint32) {
	c.Frontend.tb.Helper()
	c.Frontend = f
	c.SetOwner()
	c.offered = c.GetFeatures()
	c.SetProtocolFeatures(c.protocol)
	c.NeedReply = true
	if code := c.LoadState(state); code != 0 {
		c.Frontend.tb.Fatalf("loading the device state failed with %d", code)
	}
	c.Continue(bases)
}

// StartDirtyLog is what begins a migration.
func (c *CloudHypervisor) StartDirtyLog() {
	c.Frontend.tb.Helper()
	c.nextLog()
	c.SetFeatures(c.features() | vhostuser.FeatureLogAll)
	for i := range c.Rings {
		addr := c.addr(i, c.Rings[i].Config().Used)
		addr.Flags = vhostuser.VringFlagLog
		c.SetVringAddr(addr)
	}
}

// DirtyLog passes a new log and returns the former one's pages.
func (c *CloudHypervisor) DirtyLog() map[uint64]bool {
	c.Frontend.tb.Helper()
	former := c.log
	c.nextLog()
	return former.Pages()
}

// StopDirtyLog is the end of a migration that failed.
func (c *CloudHypervisor) StopDirtyLog() {
	c.Frontend.tb.Helper()
	for i := range c.Rings {
		c.SetVringAddr(c.addr(i, 0))
	}
	c.SetFeatures(c.features())
	c.log = nil
}

// nextLog passes a new log, just as large as the guest's memory wants it.
func (c *CloudHypervisor) nextLog() {
	c.Frontend.tb.Helper()
	last := uint64(0)
	for _, r := range c.regions {
		last = max(last, r.GuestAddr+r.Size-1)
	}
	c.log = NewDirtyLog(c.Frontend.tb, last/(8*logPage)+1, 0)
	c.SetLogBase(c.log)
}
