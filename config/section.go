package config

import "fmt"

// value is what somebody gave for an option.
type value struct {
	at   string // where, and for which option: the beginning of an error
	text string
}

// section is one place where options are given: the command line, one --vm, or
// a mapping of the file.
type section struct {
	place  string // in front of an option's name; empty: the command line
	inFile bool
	values map[string][]value // by the option's name; several only for lists
}

// option names an option as it is written in this place.
func (s *section) option(name string) string {
	if s.place == "" {
		return "--" + name
	}
	return name
}

// at is the beginning of an error about an option of this place.
func (s *section) at(name string) string {
	if given := s.values[name]; len(given) > 0 {
		return given[0].at
	}
	if s.place == "" {
		return s.option(name)
	}
	return s.place + ": " + s.option(name)
}

// note adds a value. It refuses a second, different one, also by an alias:
// which one was meant cannot be told.
func (s *section) note(o *option, v value) error {
	if old := s.values[o.name]; len(old) > 0 && !o.list {
		if old[0].text != v.text {
			return fmt.Errorf("it already has the value %q; give it once", old[0].text)
		}
		return nil
	}
	if s.values == nil {
		s.values = make(map[string][]value)
	}
	s.values[o.name] = append(s.values[o.name], v)
	return nil
}

// apply sets the option as the first of sections says that has it, or to its
// default.
func (o *option) apply(set func(value string) error, sections ...section) error {
	for _, v := range o.given(sections) {
		if err := set(v.text); err != nil {
			return fmt.Errorf("%s %q: %w", v.at, v.text, err)
		}
	}
	return nil
}

func (o *option) given(sections []section) []value {
	for _, s := range sections {
		if values, ok := s.values[o.name]; ok {
			return values
		}
	}
	if o.def == "" {
		return nil
	}
	return []value{{"--" + o.name, o.def}}
}
