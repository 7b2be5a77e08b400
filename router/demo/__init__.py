"""The main job on real LLM outcomes."""
