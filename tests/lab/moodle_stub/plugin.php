<?php
// Moodle 4.5: a provider is a plugin, with settings of its own.

namespace core_ai {
    class manager {
    }
}

namespace aiprovider_openai {
    class provider {
        private string $apikey;

        public function __construct() {
            $this->apikey = get_config('aiprovider_openai', 'apikey');
        }

        public function get_action_list(): array {
            return [
                \core_ai\aiactions\generate_text::class,
                \core_ai\aiactions\generate_image::class,
                \core_ai\aiactions\summarise_text::class,
            ];
        }
    }
}
