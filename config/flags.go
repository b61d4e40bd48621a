package config

import "strings"

// Flag is a flag of the command line as it is explained to people.
type Flag struct {
	Name    string // without dashes
	Alias   string // a second name, or empty
	Arg     string // what the value is called, A|B for a choice; empty: it takes none
	Default string // empty: none
	Help    string // sentences

	InVM   bool // it is a key of --vm, too
	InFile bool // it is a key of the configuration file, too
}

// FlagGroup is a heading with its flags.
type FlagGroup struct {
	Title string
	Flags []Flag
}

// FlagGroups returns all flags in the order of the help text.
func FlagGroups() []FlagGroup {
	var all []FlagGroup
	for _, g := range groups {
		shown := FlagGroup{Title: g.title}
		for _, o := range g.options {
			shown.Flags = append(shown.Flags, Flag{
				Name: o.name, Alias: o.alias, Arg: o.arg, Default: o.def, Help: o.help,
				InVM: o.vm != nil, InFile: !o.flag,
			})
		}
		all = append(all, shown)
	}
	vms := FlagGroup{Title: "Several VMs"}
	for _, s := range several {
		vms.Flags = append(vms.Flags, Flag{Name: s.name, Arg: s.arg, Help: s.help})
	}
	other := FlagGroup{Title: "Other"}
	for _, s := range switches {
		other.Flags = append(other.Flags, Flag{Name: s.name, Help: s.help})
	}
	return append(all, vms, other)
}

// Spellings returns how the flag is written, with its value, by each of its names.
func (f *Flag) Spellings() []string {
	var all []string
	for _, name := range []string{f.Name, f.Alias} {
		if name != "" {
			all = append(all, strings.TrimRight("--"+name+" "+f.Arg, " "))
		}
	}
	return all
}
