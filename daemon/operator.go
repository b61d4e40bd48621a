package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

// operator is the daemon as the control interface knows it: control.Program.
type operator struct{ *daemon }

// refused is the error for a client whose request failed with err, nil if it did not.
func refused(err error) error {
	status := http.StatusBadRequest
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errClosing), errors.Is(err, errAbandoned):
		status = http.StatusServiceUnavailable
	case errors.Is(err, config.ErrTaken), errors.Is(err, hostsock.ErrConflict),
		errors.Is(err, hostsock.ErrInUse), errors.Is(err, hostsock.ErrNotSocket), errors.Is(err, hostsock.ErrNotKnown):
		status = http.StatusConflict
	}
	return &control.Error{Status: status, Text: err.Error()}
}

// VMs is part of control.Program.
func (o operator) VMs() []control.VM { return o.fleet.describe() }

// Connections is part of control.Program.
func (o operator) Connections(name string) (control.ConnectionList, error) {
	vms := o.fleet.holding()
	if name != "" {
		v := o.fleet.named(name)
		if v == nil {
			return control.ConnectionList{}, control.NoSuchVM(name)
		}
		vms = slices.DeleteFunc(vms, func(other *vm) bool { return other != v })
	}
	list := listConnections(vms)
	if name != "" && len(list.Unanswered) > 0 {
		return control.ConnectionList{}, &control.Error{
			Status: http.StatusServiceUnavailable,
			Text:   fmt.Sprintf("VM %q: its event loop does not answer", name),
		}
	}
	return list, nil
}

// listConnections asks the loops of vms for their connections, all at once, and waits
// for those that answer in time.
func listConnections(vms []*vm) (list control.ConnectionList) {
	asked := make([]*answer[[]muxer.Connection], len(vms))
	answered := make(map[*vm]<-chan struct{})
	for i, v := range vms {
		asked[i] = v.askConnections()
		answered[v] = asked[i].given
	}
	stuck := late(context.Background(), slices.Clone(vms), answered)
	for i, v := range vms {
		if slices.Contains(stuck, v) {
			list.Unanswered = append(list.Unanswered, v.name)
			continue
		}
		select {
		case <-asked[i].given:
			list.Connections = append(list.Connections, describeAll(v.name, asked[i].value)...)
		default: // it has ended, and all its connections with it
		}
	}
	return list
}

// Add is part of control.Program.
func (o operator) Add(keys control.Keys) (control.VM, error) {
	cfg, err := o.defaults.Load().ParseVM(keys, o.granted, o.cfg.Sockets)
	if err != nil {
		return control.VM{}, refused(err)
	}
	vm, err := o.fleet.admit(cfg)
	return vm, refused(err)
}

// Remove is part of control.Program.
func (o operator) Remove(name string) error {
	v := o.fleet.named(name)
	if v == nil {
		return control.NoSuchVM(name)
	}
	_, err := o.fleet.dismiss(v)
	return refused(err)
}

// Drain is part of control.Program.
func (o operator) Drain(ctx context.Context, name string, limit time.Duration) (control.DrainResult, error) {
	v := o.fleet.named(name)
	if v == nil {
		return control.DrainResult{}, control.NoSuchVM(name)
	}
	ended, err := o.fleet.drain(v, limit)
	if err != nil {
		return control.DrainResult{}, refused(err)
	}
	select {
	case end := <-ended:
		return control.DrainResult{ConnectionsCut: end.cut}, refused(end.err)
	case <-ctx.Done():
		return control.DrainResult{}, ctx.Err()
	}
}

// LogLevel is part of control.Program.
func (o operator) LogLevel() string { return config.LogLevelName(o.log.GetLevel()) }

// SetLogLevel is part of control.Program.
func (o operator) SetLogLevel(name string) error {
	level, err := config.ParseLogLevel(name)
	if err != nil {
		return refused(fmt.Errorf("level %q: %w", name, err))
	}
	o.log.WithFields(logrus.Fields{"from": o.LogLevel(), "to": name}).Info("log level is changed by the control interface")
	o.log.SetLevel(level)
	return nil
}

// describe returns what there is to know about the VMs. It is safe for concurrent
// use and asks no loop.
func (f *fleet) describe() []control.VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]control.VM, len(f.vms))
	for i, v := range f.vms {
		all[i] = v.describe()
	}
	return all
}

// describe returns what there is to know about the VM. The caller holds fleet.mu.
func (v *vm) describe() control.VM {
	m := &v.stats.muxer
	d := control.VM{
		Name:           v.name,
		State:          v.state(),
		Origin:         v.origin,
		GuestCID:       uint64(m.GuestCID.Load()),
		Socket:         v.cfg.Socket,
		UDSPath:        v.cfg.UDSPath,
		Connections:    v.stats.connections() + m.Clients.Load(),
		MaxConnections: v.stats.maxConnections.Load(),
		BufferedBytes:  m.Buffered.Load(),
		MaxBuffered:    v.stats.maxBuffered.Load(),
		TxBytes:        m.TxBytes.Load(),
		RxBytes:        m.RxBytes.Load(),
		UptimeSeconds:  (clock() - v.born).Seconds(),
		StalledSeconds: &control.StallSeconds{
			Credit:     m.CreditStalled.Seconds(clock),
			RxBuffers:  m.RxRingStalled.Seconds(clock),
			HostSocket: m.HostStalled.Seconds(clock),
		},
	}
	for op := range muxer.Ops {
		d.TxPackets += m.TxPackets[op].Load()
		d.RxPackets += m.RxPackets[op].Load()
	}
	if v.failure != nil {
		d.Error = v.failure.Error()
	}
	if d.GuestCID == 0 { // it never came to packets
		d.GuestCID = v.cfg.GuestCID.CID
	}
	if wanted := v.wanted.Load(); wanted != nil {
		d.WaitingOptions = wanted.options
	}
	return d
}

// state returns where the VM stands.
func (v *vm) state() control.State {
	switch {
	case !v.up():
		return control.Failed
	case v.draining.Load():
		return control.Draining
	case v.stats.muxer.Running.Load() != 0:
		return control.Running
	case v.stats.vhostuser.Attached.Load() != 0:
		return control.Connected
	}
	return control.Waiting
}

// connections returns how many connections are not over, tails included.
func (s *vmStats) connections() (n int64) {
	for phase := range s.muxer.Connections {
		for direction := range s.muxer.Connections[phase] {
			n += s.muxer.Connections[phase][direction].Load()
		}
	}
	return n + s.muxer.Tails.Load()
}

// askConnections asks the loop for its connections. They are many: the loop copies
// them, and into memory that is there, and all else is done here.
func (v *vm) askConnections() *answer[[]muxer.Connection] {
	room := make([]muxer.Connection, 0, v.stats.connections()+v.stats.muxer.Clients.Load()+muxer.Refusals)
	return v.connections.ask(v.loop.Do, func() []muxer.Connection { return v.muxer.Connections(room) })
}

// waits are the names of what a muxer's connections wait for.
var waits = [muxer.Waits]control.Wait{
	muxer.WaitNothing:     control.WaitNothing,
	muxer.WaitConnectLine: control.WaitConnectLine,
	muxer.WaitDriver:      control.WaitDriver,
	muxer.WaitListener:    control.WaitListener,
	muxer.WaitGuestAnswer: control.WaitGuestAnswer,
	muxer.WaitHostBacklog: control.WaitHostBacklog,
	muxer.WaitGuestCredit: control.WaitGuestCredit,
	muxer.WaitRxBuffers:   control.WaitRxBuffers,
	muxer.WaitHostSocket:  control.WaitHostSocket,
}

// describeAll returns the connections of a VM as clients see them, by their ports.
func describeAll(vm string, connections []muxer.Connection) []control.Connection {
	all := make([]control.Connection, len(connections))
	for i := range connections {
		all[i] = describeConnection(vm, &connections[i])
	}
	slices.SortFunc(all, func(a, b control.Connection) int {
		return cmp.Or(cmp.Compare(a.GuestPort, b.GuestPort), cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(b.AgeSeconds, a.AgeSeconds))
	})
	return all
}

func describeConnection(vm string, c *muxer.Connection) control.Connection {
	d := control.Connection{
		VM:            vm,
		Type:          "stream",
		GuestPort:     c.GuestPort,
		HostPort:      c.HostPort,
		InitiatedBy:   muxer.Directions[c.Direction],
		State:         muxer.Phases[c.Phase],
		WaitsFor:      waits[c.Wait],
		AgeSeconds:    c.Age.Seconds(),
		TxBytes:       c.TxBytes,
		RxBytes:       c.RxBytes,
		CreditBytes:   c.Credit,
		BufferedBytes: c.Buffered,
		StalledSeconds: &control.StallSeconds{
			Credit:     c.Stalled.Credit.Seconds(),
			RxBuffers:  c.Stalled.RxBuffers.Seconds(),
			HostSocket: c.Stalled.HostSocket.Seconds(),
		},
	}
	if c.Seqpacket {
		d.Type = "seqpacket"
	}
	if c.Lingering {
		d.State = "lingering"
	}
	return d
}
