package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// errClosing refuses a change of a fleet that ends.
var errClosing = errors.New("the program ends")

// apply makes the fleet what want says, without touching VMs that stay as they
// are; among these are VMs that were added beside the configuration and are not in
// it now. After an error it is as it was. A VM that cannot start is no error: it
// fails alone. It is safe for concurrent use; changes happen one after another.
func (f *fleet) apply(want []config.VM) error {
	f.changing.Lock()
	defer f.changing.Unlock()
	have := f.list()
	want = slices.Clone(want)
	twins := pair(have, want)
	configured := len(want)
	for _, v := range have {
		if v.origin == control.FromControl && !slices.Contains(twins, v) && !v.isAbandoned() {
			want, twins = append(want, v.cfg), append(twins, v)
		}
	}
	if err := checkNames(want, twins); err != nil {
		return err
	}
	if err := checkTraces(want[:configured], twins, beside(have, want[configured:])); err != nil {
		return err
	}
	gone := slices.DeleteFunc(slices.Clone(have), func(v *vm) bool { return slices.Contains(twins, v) })
	f.remove(gone)
	for _, v := range gone {
		if !v.isAbandoned() {
			v.log.Info("VM is removed")
		}
	}
	for i, cfg := range want {
		origin := control.FromConfig
		if i >= configured {
			origin = control.FromControl
		}
		if err := f.become(twins[i], cfg, origin); err != nil {
			return err
		}
	}
	f.shareLimits()
	return nil
}

// pair returns for each VM that is wanted the one that there is already, or nil.
// A VM is told by its name, and one that was given none by its socket, since its
// name changes with its CID. In want, it keeps the name then.
func pair(have []*vm, want []config.VM) []*vm {
	twins := make([]*vm, len(want))
	match := func(same func(v *vm, w *config.VM) bool) {
		for i := range want {
			if twins[i] != nil {
				continue
			}
			at := slices.IndexFunc(have, func(v *vm) bool { return !slices.Contains(twins, v) && same(v, &want[i]) })
			if at >= 0 {
				twins[i] = have[at]
			}
		}
	}
	match(func(v *vm, w *config.VM) bool { return w.Named && w.Name == v.name })
	match(func(v *vm, w *config.VM) bool { return w.Socket != "" && w.Socket == v.cfg.Socket })
	match(func(v *vm, w *config.VM) bool { return w.FD != config.NoFD && w.FD == v.cfg.FD })
	match(func(v *vm, w *config.VM) bool { return w.Name == v.name })
	for i, v := range twins {
		if v != nil && !want[i].Named && !v.cfg.Named {
			want[i].Name = v.name
		}
	}
	return twins
}

// checkNames refuses a name that another VM has, or has until its frontend leaves.
func checkNames(want []config.VM, twins []*vm) error {
	owners := make(map[string]int)
	for i, w := range want {
		names := []string{w.Name}
		if v := twins[i]; v != nil && v.name != w.Name {
			names = append(names, v.name)
		}
		for _, name := range names {
			if j, taken := owners[name]; taken {
				return fmt.Errorf("name %q: the VMs at %s and %s both have it for now; give one of them another name",
					name, want[j].UDSPath, w.UDSPath)
			}
			owners[name] = i
		}
	}
	return nil
}

// beside returns the VMs that no configuration knows and that may record packets:
// added, and those of have that are abandoned.
func beside(have []*vm, added []config.VM) []config.VM {
	all := slices.Clone(added)
	for _, v := range have {
		if v.isAbandoned() {
			all = append(all, v.cfg)
		}
	}
	return all
}

// checkTraces refuses that VMs which run go on recording in a file of others: a VM
// that begins is checked when it does.
func checkTraces(want []config.VM, twins []*vm, others []config.VM) error {
	for i, w := range want {
		if v := twins[i]; v == nil || !v.up() || v.cfg.Trace == w.Trace {
			continue
		}
		if err := config.CheckTrace(others, w); err != nil {
			return err
		}
	}
	return nil
}

// become makes v, nil if it is new, what cfg says, as far as that is possible now.
func (f *fleet) become(v *vm, cfg config.VM, origin control.Origin) error {
	switch gone := v == nil || !v.up(); {
	case gone && cfg.FD != config.NoFD:
		return nil // what was inherited is closed, and its number may be another's
	case v == nil:
		return f.add(cfg, origin)
	case gone:
		return f.supersede(v, cfg, origin)
	}
	f.mu.Lock()
	v.origin = origin
	f.mu.Unlock()
	changes := v.cfg.Changes(&cfg)
	if len(changes.Live) > 0 {
		v.log.WithField("options", changes.Live).Info("options changed")
		v.setGuestCID(cfg.GuestCID)
		v.setLimits(int(v.stats.maxConnections.Load()), cfg.MaxBuffered)
		v.setWaitForGuest(cfg.WaitForGuest)
		v.setTrace(cfg.Trace)
	}
	if len(changes.Waiting) == 0 {
		v.replaceBy(nil, nil)
		return nil
	}
	v.replaceBy(&cfg, changes.Waiting)
	return nil
}

// replace puts the VM that is wanted into the place of v, whose frontend has left.
func (f *fleet) replace(v *vm) {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	there := !f.closing && slices.Contains(f.vms, v) && !v.isAbandoned()
	f.mu.Unlock()
	if !there || v.draining.Load() {
		return
	}
	v.log.Info("frontend has left, VM begins anew")
	cfg := v.cfg
	if wanted := v.wanted.Load(); wanted != nil {
		cfg = wanted.cfg
	}
	f.remove([]*vm{v})
	if v.isAbandoned() {
		v.wanted.Store(&successor{cfg: cfg})
		return
	}
	f.refill(&successor{cfg: cfg}, v.origin)
}

// refill serves next, unless it is nil, after a VM that has ended, and tries those
// again that failed: what kept them from starting may be gone with it. The caller
// holds changing.
func (f *fleet) refill(next *successor, origin control.Origin) {
	failed := slices.DeleteFunc(f.list(), func(v *vm) bool { return v.up() || v.isAbandoned() || v.cfg.FD != config.NoFD })
	f.remove(failed)
	if next != nil && f.add(next.cfg, origin) != nil {
		return // the program ends
	}
	for _, v := range failed {
		if f.add(v.cfg, v.origin) != nil {
			return
		}
	}
	f.shareLimits()
}

// remove ends VMs as at the end of the program. One that cannot end is abandoned; one
// that was before gets no successor. The caller holds changing.
func (f *fleet) remove(vms []*vm) {
	f.mu.Lock()
	for _, v := range vms {
		v.leaving = true
		v.cut = v.stats.connections()
	}
	f.mu.Unlock()
	var ending sync.WaitGroup
	for _, v := range vms {
		ending.Go(func() {
			defer time.AfterFunc(tailLimit, v.giveUp).Stop()
			if err := v.end(); err != nil && v.up() && !v.isAbandoned() {
				v.log.WithError(err).Warn("VM ended badly")
			}
		})
	}
	ending.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vms = slices.DeleteFunc(f.vms, func(v *vm) bool { return slices.Contains(vms, v) && !v.isAbandoned() })
	for _, v := range vms {
		switch {
		case !v.isAbandoned():
		case v.up():
			f.abandon(v)
		default:
			v.wanted.Store(nil)
		}
	}
}

// add serves another VM. One that cannot start has failed, and is there. The
// caller holds changing.
func (f *fleet) add(cfg config.VM, origin control.Origin) error {
	v := newVM(cfg, origin, f)
	return f.enlist(v, f.openBeside(v, f.holding()))
}

// enlist puts a VM into the list and serves it or, if that could not be opened for
// an error, notes that it has failed.
func (f *fleet) enlist(v *vm, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return cmp.Or(v.end(), errClosing)
	}
	f.vms = append(f.vms, v)
	if err != nil {
		v.fail(gather(err, v.end()))
	} else {
		f.startVM(v)
	}
	return nil
}

// openBeside opens a VM beside others.
func (f *fleet) openBeside(v *vm, others []*vm) error {
	if err := f.checkAbandoned(v.cfg); err != nil {
		return err
	}
	var configs []config.VM
	for _, o := range others {
		configs = append(configs, o.cfg)
	}
	limits, err := connectionLimits(append(configs, v.cfg), f.files)
	if err != nil {
		return err
	}
	if err := config.CheckBeside(configs, f.control, v.cfg); errors.Is(err, config.ErrTaken) || errors.Is(err, hostsock.ErrConflict) {
		return err // else hostsock tells what is wrong
	}
	useProcessors(len(limits))
	setLimits(others, limits)
	return v.open(limits[len(others)])
}

// shareLimits gives each VM its share of descriptors. The caller holds changing.
func (f *fleet) shareLimits() {
	vms := f.holding()
	var configs []config.VM
	for _, v := range vms {
		configs = append(configs, v.cfg)
	}
	if limits, err := connectionLimits(configs, f.files); err == nil { // there is room, or they would not serve
		setLimits(vms, limits)
	}
}

// setLimits changes how many connections VMs may have.
func setLimits(vms []*vm, limits []int) {
	for i, v := range vms {
		if v.stats.maxConnections.Load() != int64(limits[i]) {
			v.setLimits(limits[i], v.cfg.MaxBuffered)
		}
	}
}
