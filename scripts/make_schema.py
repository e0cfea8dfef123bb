"""Write configs/schema.json and configs/weights-schema.json, by which editors check the tables of architectures and of
weights; run it after a change of their keys.

python scripts/make_schema.py           # writes
python scripts/make_schema.py --check   # exit status 1 when a file is stale
"""

import argparse
import json
import sys

from effnets.spec.json_schema import make_schema, make_weights_schema
from effnets.utils.paths import configs_dir

SCHEMAS = {"schema.json": make_schema, "weights-schema.json": make_weights_schema}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write configs/schema.json and configs/weights-schema.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    arguments = parser.parse_args()
    for name, make in SCHEMAS.items():
        path = configs_dir() / name
        text = json.dumps(make(), indent=2, ensure_ascii=False) + "\n"
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is stale; run: python scripts/make_schema.py")


if __name__ == "__main__":
    main()
