<?php
// Moodle 5.0 and later: providers are rows, made of a class, its configuration and that of its actions.

namespace core_ai\aiactions {
    class explain_text extends base {
    }
}

namespace core {
    class di {
        public static function get(string $class): object {
            return new $class();
        }
    }
}

namespace core_ai {
    abstract class provider {
        public readonly string $provider;
        public readonly array $config;
        public readonly array $actionconfig;

        public function __construct(
            public readonly bool $enabled,
            public string $name,
            string $config,
            string $actionconfig = '',
            public readonly ?int $id = null,
        ) {
            $this->provider = strstr(static::class, '\\', true);
            $this->config = json_decode($config, true);
            $this->actionconfig = $actionconfig === '' ? [] : json_decode($actionconfig, true);
        }

        abstract public static function get_action_list(): array;

        public function row(): array {
            return [
                'id' => $this->id,
                'name' => $this->name,
                'provider' => static::class,
                'enabled' => $this->enabled,
                'config' => json_encode($this->config),
                'actionconfig' => json_encode($this->actionconfig),
            ];
        }
    }

    class manager {
        public function get_provider_instances(?array $filter = null): array {
            $found = [];
            foreach (\flexi_stub::$state['providers'] as $row) {
                if (array_intersect_key($row, $filter ?? []) == ($filter ?? [])) {
                    $found[$row['id']] = $this->made($row);
                }
            }
            return $found;
        }

        public function create_provider_instance(
            string $classname,
            string $name,
            bool $enabled = false,
            ?array $config = null,
            ?array $actionconfig = null,
        ): provider {
            if (!class_exists($classname) || !is_a($classname, provider::class, true)) {
                throw new \Exception("Provider class not valid: {$classname}");
            }
            $actions = $actionconfig ? json_encode($actionconfig) : '';
            $id = \flexi_stub::$state['next']++;
            return $this->keep(new $classname($enabled, $name, json_encode($config ?? []), $actions, $id));
        }

        public function update_provider_instance(
            provider $provider,
            ?array $config = null,
            ?array $actionconfig = null,
        ): provider {
            $changes = ['config' => $config, 'actionconfig' => $actionconfig];
            $changes = array_map('json_encode', array_filter($changes, fn($change) => $change !== null));
            return $this->keep($this->made($changes + $provider->row()));
        }

        public function delete_provider_instance(provider $provider): bool {
            unset(\flexi_stub::$state['providers'][$provider->id]);
            return true;
        }

        public function enable_provider_instance(provider $provider): provider {
            return $this->keep($this->made(['enabled' => true] + $provider->row()));
        }

        public function disable_provider_instance(provider $provider): provider {
            return $this->keep($this->made(['enabled' => false] + $provider->row()));
        }

        private function made(array $row): provider {
            return new $row['provider']($row['enabled'], $row['name'], $row['config'], $row['actionconfig'], $row['id']);
        }

        private function keep(provider $provider): provider {
            \flexi_stub::$state['providers'][$provider->id] = $provider->row();
            return $provider;
        }
    }
}

namespace aiprovider_openai {
    class provider extends \core_ai\provider {
        public static function get_action_list(): array {
            return [
                \core_ai\aiactions\generate_text::class,
                \core_ai\aiactions\generate_image::class,
                \core_ai\aiactions\summarise_text::class,
                \core_ai\aiactions\explain_text::class,
            ];
        }
    }
}

namespace aiprovider_ollama {
    class provider extends \core_ai\provider {
        public static function get_action_list(): array {
            return [
                \core_ai\aiactions\generate_text::class,
                \core_ai\aiactions\summarise_text::class,
                \core_ai\aiactions\explain_text::class,
            ];
        }
    }
}
