package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
)

// Service is one instance of a named service. Methods are registered first,
// then Run serves them.
type Service struct {
	bus    *bus.Bus
	name   string
	id     string
	config Config
	log    zerolog.Logger

	root        *Entrypoint
	entrypoints map[string]*Entrypoint
	endpoints   map[string]*endpoint
	gate        *gate
	deadlines   *deadlines
	intake      intake
	feeds       feeds
	objects     Objects // of a class, nil for a service
	components  []component

	lifecycle sync.RWMutex // guards what follows
	state     state
	started   time.Time
	ready     chan struct{}
	workers   sync.WaitGroup
	active    running
	early     earlyCancels
	sheds     shedLog
	work      *background
	abandon   context.CancelCauseFunc
	base      context.Context
}

type state int

const (
	registering state = iota
	serving
	draining
	stopped
)

// New makes a service with that name, which does nothing until Run. It panics
// when name or cfg are malformed.
func New(b *bus.Bus, name string, cfg Config) *Service {
	if err := rpc.ValidateService(name); err != nil {
		panic("server: " + err.Error())
	}
	cfg = cfg.withDefaults(b.InboxPrefix())
	s := &Service{
		bus: b, name: name, id: nuid.Next(), config: cfg,
		entrypoints: map[string]*Entrypoint{},
		endpoints:   map[string]*endpoint{},
		gate:        newGate(cfg.Concurrency, cfg.Queue, cfg.QueueBytes),
		ready:       make(chan struct{}),
	}
	logger := cfg.Logger
	if logger == nil {
		logger = b.Logger()
	}
	s.log = logger.With().Str("service", name).Str("instance", s.id).Logger()
	s.root = &Entrypoint{service: s, interceptors: cfg.Interceptors}
	s.intake.svc = s
	s.deadlines = newDeadlines(&s.active)
	s.base, s.abandon = context.WithCancelCause(context.Background())
	s.work = newBackground(cfg.Concurrency)
	return s
}

// Name returns the service's name.
func (s *Service) Name() string { return s.name }

// ID returns the id of this instance, as discovery shows it.
func (s *Service) ID() string { return s.id }

// Version returns the service's version.
func (s *Service) Version() string { return s.config.Version }

// Logger returns the service's log, which names the service and the instance.
func (s *Service) Logger() *zerolog.Logger { return &s.log }

// Bus returns the bus that the service is on.
func (s *Service) Bus() *bus.Bus { return s.bus }

// Ready returns a channel that is closed when Run serves calls.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Registrar is where methods are registered: a *Service or an *Entrypoint.
type Registrar interface {
	entrypoint() *Entrypoint
}

func (s *Service) entrypoint() *Entrypoint { return s.root }

// Entrypoint is a named group of methods of a service with interceptors of its
// own: its methods are addressed as "<entrypoint>.<method>", so what one role
// may call can't be reached through another's.
type Entrypoint struct {
	service      *Service
	name         string
	interceptors []rpc.Interceptor
}

func (e *Entrypoint) entrypoint() *Entrypoint { return e }

// Entrypoint makes the entrypoint with that name. Its interceptors run inside
// those of the service. It panics when the name is malformed or taken.
func (s *Service) Entrypoint(name string, interceptors ...rpc.Interceptor) *Entrypoint {
	if err := rpc.ValidateService(name); err != nil {
		panic("server: entrypoint: " + err.Error())
	}
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.mustRegister("entrypoint " + name)
	if _, taken := s.entrypoints[name]; taken {
		panic(fmt.Sprintf("server: %s has the entrypoint %s already", s.name, name))
	}
	for method := range s.endpoints {
		if firstToken(method) == name {
			panic(fmt.Sprintf("server: %s: the method %s begins with the entrypoint's name %s", s.name, method, name))
		}
	}
	e := &Entrypoint{service: s, name: name}
	e.interceptors = append(e.interceptors, s.config.Interceptors...)
	e.interceptors = append(e.interceptors, interceptors...)
	s.entrypoints[name] = e
	return e
}

func (s *Service) mustRegister(what string) {
	if s.state != registering {
		panic(fmt.Sprintf("server: %s: %s registered after Run", s.name, what))
	}
}
