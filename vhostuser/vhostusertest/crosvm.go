package vhostusertest

import "github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"

// crosvm replays crosvm. It never sends NEED_REPLY.
type crosvm struct {
	*Frontend
	*Guest
	offered uint64
	set     uint64 // features in force
	bases   []uint32
}

const (
	crosvmRings    = 3
	crosvmRingSize = 256
	crosvmKnown    = vhostuser.ProtocolMQ | vhostuser.ProtocolReplyAck | vhostuser.ProtocolBackendReq | vhostuser.ProtocolConfig |
		1<<19 | 1<<22
)

// Crosvm replays crosvm.
func Crosvm(f *Frontend, g *Guest) Peer { return &crosvm{Frontend: f, Guest: g} }

func (c *crosvm) Init() {
	c.Frontend.tb.Helper()
	c.SetOwner()
	c.offered = c.GetFeatures() &^ vhostuser.FeatureRingPacked
	c.protocol(crosvmKnown)
	c.SetBackendReqFd()
	if n := c.GetQueueNum(); n != crosvmRings {
		c.Frontend.tb.Fatalf("the guest would see %d queues", n)
	}
	const writable = 1
	c.GetConfig(0, 8, writable)
}

func (c *crosvm) Start() {
	c.Frontend.tb.Helper()
	c.probe(crosvmRings, crosvmRingSize, c.driver(c.offered))
	c.bases = make([]uint32, crosvmRings)
	c.start()
}

func (c *crosvm) start() {
	c.Frontend.tb.Helper()
	if features := c.driver(c.offered) | vhostuser.FeatureProtocolFeatures; features != c.set {
		c.SetFeatures(features)
		c.set = features
	}
	c.SetMemTable(c.regions, c.fds, 0)
	for i, r := range c.Rings {
		index := uint32(i)
		c.SetVringNum(index, uint32(r.Config().Size))
		c.SetVringAddr(c.addr(i, 0))
		c.SetVringBase(index, c.bases[i])
		c.SetVringCall(index, r.CallFd())
		c.SetVringKick(index, r.KickFd())
		c.SetVringEnable(index, true)
	}
}

func (c *crosvm) Stop() {
	c.Frontend.tb.Helper()
	for i := range c.Rings {
		c.SetVringEnable(uint32(i), false)
		c.bases[i] = c.GetVringBase(uint32(i))
	}
}

func (c *crosvm) Resume() { c.Frontend.tb.Helper(); c.start() }

func (c *crosvm) Reset() { c.Frontend.tb.Helper(); c.Stop() }

func (c *crosvm) Shutdown() { c.Frontend.tb.Helper(); c.Close() }
